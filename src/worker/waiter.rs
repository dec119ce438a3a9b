//! Parked coroutines and the place for their answer. Several may wait for the same one: see [`super::flights`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use may::coroutine::{self, Coroutine};

use crate::app::Failure;
use crate::http::context::Spent;

/// The place for one answer.
pub struct Waiter<A>(Mutex<Answer<A>>);

/// Who answers first wins: the lane, or the worker's tick when the lane is stuck.
enum Answer<A> {
    /// By these; most often it is one.
    Awaited(Coroutine, Vec<Coroutine>),
    /// And what it took.
    Given(Result<A, Failure>, Spent),
}

impl<A: Clone> Waiter<A> {
    /// A place for the answer that this coroutine waits for.
    pub fn of(coroutine: Coroutine) -> Self {
        Waiter(Mutex::new(Answer::Awaited(coroutine, Vec::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Answer<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the answer for the coroutines, which are then to be woken; none if they have one already. `spent` is what it took.
    pub fn give(&self, outcome: Result<A, Failure>, spent: Spent) -> Vec<Coroutine> {
        let mut answer = self.lock();
        if let Answer::Given(..) = *answer {
            return Vec::new();
        }
        match std::mem::replace(&mut *answer, Answer::Given(outcome, spent)) {
            Answer::Awaited(first, mut others) => {
                others.push(first);
                others
            }
            Answer::Given(..) => Vec::new(),
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
            Answer::Given(outcome, _) => Some(outcome.clone()),
            Answer::Awaited(..) => None,
        }
    }

    /// What the answer took, once it is there.
    pub fn spent(&self) -> Spent {
        match &*self.lock() {
            Answer::Given(_, spent) => *spent,
            Answer::Awaited(..) => Spent::default(),
        }
    }
}

/// A waiter of any kind, to be told that its lane is stuck.
pub trait Abandon: Send + Sync {
    /// Answers with a failure, unless there is an answer already.
    fn abandon(&self, failure: Failure, spent: Spent) -> Vec<Coroutine>;
}

impl<A: Clone + Send> Abandon for Waiter<A> {
    fn abandon(&self, failure: Failure, spent: Spent) -> Vec<Coroutine> {
        self.give(Err(failure), spent)
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
