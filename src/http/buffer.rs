//! Buffers that connections borrow while a request is under way: an idle connection holds none.

use std::sync::{Mutex, PoisonError};

/// What one read asks for at first; most requests fit.
const READ_SIZE: usize = 4096;

/// The largest buffer worth keeping.
const KEEP_BELOW: usize = 64 * 1024;

/// How many buffers of each kind are kept.
const KEEP: usize = 256;

/// The worker's spare buffers. Only its scheduler thread comes here, so the locks are never contended.
#[derive(Default)]
pub struct Pool {
    inputs: Mutex<Vec<Vec<u8>>>,
    outputs: Mutex<Vec<Vec<u8>>>,
}

fn take(spare: &Mutex<Vec<Vec<u8>>>) -> Option<Vec<u8>> {
    spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn give(spare: &Mutex<Vec<Vec<u8>>>, buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > KEEP_BELOW {
        return;
    }
    let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.len() < KEEP {
        spare.push(buffer);
    }
}

impl Pool {
    /// An empty buffer to write responses into.
    pub fn take_output(&self) -> Vec<u8> {
        take(&self.outputs).unwrap_or_else(|| Vec::with_capacity(READ_SIZE))
    }

    pub fn give_output(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        give(&self.outputs, buffer);
    }
}

/// Bytes received and not yet used. The memory is initialised once and its filled part moves within, so that no
/// read pays for zeroing.
#[derive(Default)]
pub struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// What was received and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Room for the next read, never empty. Grows by doubling; what bounds it are the limits on heads, and bodies
    /// are consumed as they come.
    pub fn space(&mut self, pool: &Pool) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = take(&pool.inputs).unwrap_or_else(|| vec![0; READ_SIZE]);
        }
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            let larger = self.bytes.len() * 2;
            self.bytes.resize(larger, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Takes in what a read put into [`Input::space`].
    pub fn advance(&mut self, count: usize) {
        self.end += count;
    }

    pub fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Gives the memory back; only when there is nothing in it.
    pub fn release(&mut self, pool: &Pool) {
        self.clear();
        give(&pool.inputs, std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_keeps_what_is_not_consumed_while_it_moves_and_grows() {
        let pool = Pool::default();
        let mut input = Input::default();
        let mut expected = Vec::new();
        for round in 0..40u8 {
            let space = input.space(&pool);
            let count = space.len().min(1000);
            space[..count].fill(round);
            input.advance(count);
            expected.extend(std::iter::repeat_n(round, count));
            let used = expected.len() / 3;
            input.consume(used);
            expected.drain(..used);
            assert_eq!(input.filled(), expected);
        }
        input.release(&pool);
        assert!(input.filled().is_empty() && input.space(&pool).len() >= READ_SIZE);
    }
}
