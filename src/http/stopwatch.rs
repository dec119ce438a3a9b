//! How long a connection's requests take, from their first bytes until their answer is laid into the output. It looks at the
//! clock twice a request, and once where the next request is there already when one is answered: then it began when that
//! was. A build without the feature `metrics` never looks.

use std::time::{Duration, Instant};

/// The stopwatch of a connection.
#[derive(Debug, Default)]
pub struct Stopwatch {
    /// When the request at hand began, or the last one was answered.
    mark: Option<Instant>,
}

impl Stopwatch {
    const RUNS: bool = cfg!(feature = "metrics");

    /// The next request is awaited; `is_there` says that bytes of it have been read.
    #[inline]
    pub fn await_next(&mut self, is_there: bool) {
        match is_there {
            true => self.begin(),
            false => self.mark = None,
        }
    }

    /// Bytes of a request are there; only the first call counts.
    #[inline]
    pub fn begin(&mut self) {
        if Self::RUNS {
            self.mark.get_or_insert_with(Instant::now);
        }
    }

    /// The request is answered. None for an answer to nobody's request.
    #[inline]
    pub fn end(&mut self) -> Option<Duration> {
        if !Self::RUNS {
            return None;
        }
        let now = Instant::now();
        let began = self.mark.replace(now)?;
        Some(now.saturating_duration_since(began))
    }
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_waits_begins_when_the_one_before_it_ends() {
        let mut watch = Stopwatch::default();
        assert_eq!(watch.end(), None);
        watch.await_next(false);
        watch.begin();
        let began = watch.mark;
        watch.begin();
        assert_eq!(watch.mark, began, "only the first bytes count");
        assert!(watch.end().is_some());
        let ended = watch.mark;
        assert!(ended >= began);
        watch.await_next(true);
        assert_eq!(watch.mark, ended);
        assert!(watch.end().is_some());
        watch.await_next(false);
        assert_eq!(watch.mark, None);
    }
}
