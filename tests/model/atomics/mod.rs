//! The scoreboard's own code for generations and intents, compiled over loom's atomics, which give it every order and
//! every stale load that the memory model allows. The database and the answers are single words here: what they hold
//! passes from writer to reader as over a socket, released and acquired.

/// The code as it is.
mod real;
/// The same code, with every ordering the weakest.
mod relaxed;

use std::panic::catch_unwind;

/// Makes the worlds of one copy of the code.
macro_rules! worlds {
    ($code:ident) => {
        pub mod $code {
            use std::mem::forget;

            use loom::sync::Arc;
            use loom::sync::atomic::{AtomicU64, Ordering};
            use loom::thread;

            use super::super::$code::{Entry, Generations, Row, row};
            use super::Order;

            /// The shoe whose entry is the table's first; the table has no other here.
            const SHOE: i32 = 0;

            /// What the processes of a host and the database hold.
            pub struct Host {
                generations: Generations,
                row: Row,
                database: AtomicU64,
                /// The newest value whose writer was answered, or was reaped.
                told: AtomicU64,
            }

            impl Host {
                fn new() -> Arc<Self> {
                    let (generations, row) = row();
                    Arc::new(Host {
                        generations,
                        row,
                        database: AtomicU64::new(0),
                        told: AtomicU64::new(0),
                    })
                }

                fn commit(&self) {
                    self.database.store(1, Ordering::Release);
                }

                fn answer(&self) {
                    self.told.store(1, Ordering::Release);
                }

                /// Asks twice, and keeps what the first time brought.
                fn read(&self, order: Order) {
                    let mut kept = None;
                    for _ in 0..2 {
                        let least = self.told.load(Ordering::Acquire);
                        let stamp = || self.generations.load(Entry::of_shoe(SHOE));
                        let before = stamp();
                        let seen = match kept {
                            Some((value, stamp)) if stamp == before => value,
                            _ => {
                                let value = self.database.load(Ordering::Acquire);
                                kept = Some((
                                    value,
                                    match order {
                                        Order::StampAfterAsking => stamp(),
                                        _ => before,
                                    },
                                ));
                                value
                            }
                        };
                        assert!(seen >= least, "{seen} after {least} was told");
                    }
                }
            }

            fn model(work: fn(&Host, Order), order: Order) {
                loom::model(move || {
                    let host = Host::new();
                    let writer = thread::spawn({
                        let host = host.clone();
                        move || work(&host, order)
                    });
                    host.read(order);
                    writer.join().expect("the writer has nothing to panic of");
                });
            }

            /// A writer that is answered.
            pub fn answered(order: Order) {
                model(
                    |host, order| {
                        let intent = host.row.intend(0, &[SHOE]);
                        if order == Order::MoveBeforeCommit {
                            drop(intent);
                            host.commit();
                        } else {
                            host.commit();
                            drop(intent);
                        }
                        host.answer();
                    },
                    order,
                );
            }

            /// A writer that dies after its commit, and is reaped.
            pub fn reaped(order: Order) {
                model(
                    |host, order| {
                        if order == Order::CommitBeforeIntent {
                            host.commit();
                        } else {
                            forget(host.row.intend(0, &[SHOE]));
                            host.commit();
                        }
                        host.row.settle();
                        host.answer();
                    },
                    order,
                );
            }
        }
    };
}

mod worlds {
    use super::Order;

    worlds!(real);
    worlds!(relaxed);
}

/// What is done in another order than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Right,
    MoveBeforeCommit,
    StampAfterAsking,
    /// The writer dies between the two.
    CommitBeforeIntent,
}

#[test]
fn no_core_sees_an_old_answer_as_a_new_one() {
    worlds::real::answered(Order::Right);
    worlds::real::reaped(Order::Right);
}

#[test]
fn another_order_is_noticed() {
    for (world, order) in [
        (worlds::real::answered as fn(Order), Order::MoveBeforeCommit),
        (worlds::real::answered, Order::StampAfterAsking),
        (worlds::real::reaped, Order::CommitBeforeIntent),
    ] {
        assert!(
            catch_unwind(|| world(order)).is_err(),
            "{order:?} is not noticed"
        );
    }
}

#[test]
fn weaker_orderings_are_noticed() {
    for world in [worlds::relaxed::answered, worlds::relaxed::reaped] {
        assert!(catch_unwind(|| world(Order::Right)).is_err());
    }
}
