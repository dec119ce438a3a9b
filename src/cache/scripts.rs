//! What Redis does in one step: scripts, each over keys of one shard. Called by `redis` and `debts`.

/// What no filled value looks like: those start with their epoch and a colon.
pub(super) const TOMBSTONE: &[u8] = b"-";

/// Puts a lease on each key that holds neither a tombstone, nor another's lease, nor a value of the epoch; answers with 1 for
/// each that it got. KEYS: the keys. ARGV: the lease, the epoch with its colon, milliseconds to live.
pub(super) const LEASE: &str = "local got = {} for i, key in ipairs(KEYS) do \
    local v = redis.pcall('GET', key) \
    if type(v) == 'string' and (v == '-' or string.sub(v, 1, 1) == '~' or string.sub(v, 1, #ARGV[2]) == ARGV[2]) \
    then got[i] = 0 else redis.call('SET', key, ARGV[1], 'PX', ARGV[3]) got[i] = 1 end end return got";

/// Fills each key that still holds its lease. KEYS: the keys. ARGV, three for each key: the lease, milliseconds to live, the
/// value.
pub(super) const FILL: &str = "for i, key in ipairs(KEYS) do local at = 3 * i - 2 \
    if redis.pcall('GET', key) == ARGV[at] then redis.call('SET', key, ARGV[at + 2], 'PX', ARGV[at + 1]) end end";

/// Puts a tombstone on each key, and then publishes a message if there is one. KEYS: the keys. ARGV: the tombstone, milliseconds
/// to live, the channel and the message.
pub(super) const MARK: &str = "for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end \
    if ARGV[3] then redis.call('PUBLISH', ARGV[3], ARGV[4]) end";

/// Begins an epoch if the one that it follows is still there. KEYS: the epoch's key. ARGV: the old one, empty for none, and
/// the new one.
pub(super) const BEGIN: &str =
    "if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end";

/// Drops each key, but for tombstones: those are of writes that may not have committed yet.
pub(super) const FORGET: &str = "for _, key in ipairs(KEYS) do if redis.pcall('GET', key) ~= '-' then redis.call('DEL', key) end end";

/// Begins an epoch, and tells everybody of it. One that can't be stored, since there is no memory left, is made up for by having
/// none: the next reader begins one. KEYS: the epoch's key. ARGV: the epoch, the channel, the message.
pub(super) const SETTLE: &str = "local set = redis.pcall('SET', KEYS[1], ARGV[1]) \
    if type(set) == 'table' and set.err then redis.call('DEL', KEYS[1]) end \
    redis.call('PUBLISH', ARGV[2], ARGV[3])";
