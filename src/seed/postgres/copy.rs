//! Step 3: the loading itself, chunk by chunk in COPY's binary format, spread over connections of r2d2's.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use r2d2_postgres::PostgresConnectionManager;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Block;
use crate::seed::generate;
use crate::store::url::PostgresUrl;
use crate::store::{Draft, Session, StoreError, postgres_refusal, tls};

/// Rows of one COPY: some 10 MB, a fraction of a second.
const CHUNK_ROWS: u32 = 20_000;
/// Bytes handed to a connection at a time.
const BUFFER_BYTES: usize = 64 * 1024;
const REPORT_PAUSE: Duration = Duration::from_millis(100);

const COPY: &str = "COPY shoe_images (id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2) \
    FROM STDIN WITH (FORMAT binary)";

type Pool = r2d2::Pool<PostgresConnectionManager<MakeRustlsConnect>>;

/// Connections to the very server that the session has, with the same kind of TLS.
pub(super) fn open_pool(
    url: &PostgresUrl,
    session: &Session,
    streams: u32,
) -> Result<Pool, StoreError> {
    let config = ::postgres::Config::from(session.route().clone());
    let manager = PostgresConnectionManager::new(config, tls::connector(url)?);
    r2d2::Pool::builder()
        .max_size(streams)
        .connection_timeout(Duration::from_secs(10))
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build(manager)
        .map_err(|error| {
            StoreError::Unavailable(format!("{streams} connections for loading: {error}"))
        })
}

/// Loads the block; `report` is told the rows that were handed to the server.
pub(super) fn load(
    pool: &Pool,
    block: Block,
    streams: u32,
    report: impl Fn(u64),
) -> Result<(), StoreError> {
    let chunks = block.rows.div_ceil(CHUNK_ROWS);
    let (next_chunk, sent, stop) = (AtomicU32::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let stream = || {
        let result = pool
            .get()
            .map_err(|error| StoreError::Unavailable(error.to_string()))
            .and_then(|mut client| {
                // The commits of single chunks need not be safe on the disk: the mark's removal is.
                client
                    .batch_execute("SET statement_timeout = 0; SET synchronous_commit = off")
                    .map_err(copy_error)?;
                while !stop.load(Ordering::Relaxed) {
                    let chunk = next_chunk.fetch_add(1, Ordering::Relaxed);
                    if chunk >= chunks {
                        break;
                    }
                    let first = chunk * CHUNK_ROWS;
                    copy(
                        &mut client,
                        block,
                        first..block.rows.min(first + CHUNK_ROWS),
                        &sent,
                    )
                    .map_err(copy_error)?;
                }
                Ok(())
            });
        if result.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        result
    };
    thread::scope(|scope| {
        let streams: Vec<_> = (0..streams.min(chunks))
            .map(|_| scope.spawn(stream))
            .collect();
        while streams.iter().any(|stream| !stream.is_finished()) {
            report(sent.load(Ordering::Relaxed));
            thread::sleep(REPORT_PAUSE);
        }
        report(sent.load(Ordering::Relaxed));
        let gone = || StoreError::Failed("a loading thread panicked".to_owned());
        streams
            .into_iter()
            .try_for_each(|stream| stream.join().unwrap_or_else(|_| Err(gone())))
    })
}

/// One chunk: the rows `range` of the block, in one COPY.
fn copy(
    client: &mut ::postgres::Client,
    block: Block,
    range: std::ops::Range<u32>,
    sent: &AtomicU64,
) -> Result<(), ::postgres::Error> {
    let mut writer = client.copy_in(COPY)?;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES + 1024);
    // Signature, flags, length of the header's extension
    // (https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format").
    buffer.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    let mut fresh = 0;
    for n in range {
        let shoe = generate(block.first_shoe_id.wrapping_add_unsigned(n));
        put_row(&mut buffer, block.first_id.wrapping_add_unsigned(n), &shoe);
        fresh += 1;
        if buffer.len() >= BUFFER_BYTES {
            // A failed write has its reason in `finish`, or in the next call on the connection.
            if writer.write_all(&buffer).is_err() {
                break;
            }
            buffer.clear();
            sent.fetch_add(std::mem::take(&mut fresh), Ordering::Relaxed);
        }
    }
    buffer.extend_from_slice(&(-1_i16).to_be_bytes());
    let _ = writer.write_all(&buffer);
    writer.finish()?;
    sent.fetch_add(fresh, Ordering::Relaxed);
    Ok(())
}

/// One tuple of COPY's binary format.
fn put_row(buffer: &mut Vec<u8>, id: i32, shoe: &Draft) {
    buffer.extend_from_slice(&11_i16.to_be_bytes());
    for number in [id, shoe.shoe_id] {
        buffer.extend_from_slice(&4_i32.to_be_bytes());
        buffer.extend_from_slice(&number.to_be_bytes());
    }
    for text in &shoe.media {
        match text {
            // A text of the generator's is far below 2 GB.
            Some(text) => {
                buffer.extend_from_slice(&(text.len() as u32).to_be_bytes());
                buffer.extend_from_slice(text.as_bytes());
            }
            None => buffer.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
}

fn copy_error(error: ::postgres::Error) -> StoreError {
    postgres_refusal(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::seed::generate;

    #[test]
    fn a_tuple_is_what_the_manual_says() {
        let mut buffer = Vec::new();
        let mut shoe = generate(2);
        shoe.media = Default::default();
        shoe.media[0] = Some("ab".to_owned());
        put_row(&mut buffer, 1, &shoe);
        assert_eq!(
            buffer[..20],
            [0, 11, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0]
        );
        assert_eq!(buffer[20..28], [0, 2, b'a', b'b', 255, 255, 255, 255]);
        assert_eq!(buffer.len(), 2 + 8 + 8 + 6 + 8 * 4);
    }
}
