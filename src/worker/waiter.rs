//! Parked coroutines and the place for their answer. Several may wait for the same one: see [`super::flights`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use may::coroutine::{self, Coroutine};

use crate::app::Failure;

/// The place for one answer.
pub struct Waiter<A>(Mutex<Answer<A>>);

/// Who answers first wins: the lane, or the worker's tick when the lane is stuck.
enum Answer<A> {
    /// By these; most often it is one.
    Awaited(Coroutine, Vec<Coroutine>),
    Given(Result<A, Failure>),
}

impl<A: Clone> Waiter<A> {
    /// A place for the answer that this coroutine waits for.
    pub fn of(coroutine: Coroutine) -> Self {
        Waiter(Mutex::new(Answer::Awaited(coroutine, Vec::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Answer<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the answer for the coroutines, which are then to be woken; none if they have one already.
    pub fn give(&self, outcome: Result<A, Failure>) -> Vec<Coroutine> {
        let mut answer = self.lock();
        if let Answer::Given(_) = *answer {
            return Vec::new();
        }
        match std::mem::replace(&mut *answer, Answer::Given(outcome)) {
            Answer::Awaited(first, mut others) => {
                others.push(first);
                others
            }
            Answer::Given(_) => Vec::new(),
        }
    }

    /// Lets the calling coroutine wait along.
    pub fn join(self: &Arc<Self>) -> Pending<A> {
        if let Answer::Awaited(_, others) = &mut *self.lock() {
            others.push(coroutine::current());
        }
        Pending(self.clone())
    }

    fn given(&self) -> Option<Result<A, Failure>> {
        match &*self.lock() {
            Answer::Given(outcome) => Some(outcome.clone()),
            Answer::Awaited(..) => None,
        }
    }
}

/// A waiter of any kind, to be told that its lane is stuck.
pub trait Abandon: Send + Sync {
    /// Answers with a failure, unless there is an answer already.
    fn abandon(&self, failure: Failure) -> Vec<Coroutine>;
}

impl<A: Clone + Send> Abandon for Waiter<A> {
    fn abandon(&self, failure: Failure) -> Vec<Coroutine> {
        self.give(Err(failure))
    }
}

/// What an asking coroutine holds on to.
pub struct Pending<A>(pub Arc<Waiter<A>>);

impl<A: Clone> Pending<A> {
    /// Parks until the answer is there. Every job is answered: lanes hold its deadline, and the worker's tick
    /// answers those that no lane came to.
    pub fn wait(self) -> Result<A, Failure> {
        loop {
            if let Some(outcome) = self.0.given() {
                return outcome;
            }
            coroutine::park();
        }
    }
}
