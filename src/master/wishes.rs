//! Changes that were asked for while another one is under way. Pure.

use serde::{Deserialize, Serialize};

/// A number of workers that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scale {
    /// So many more, or fewer.
    By(i32),
    To(usize),
}

/// The next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Read the configuration again.
    Reload,
    Scale(Scale),
}

/// What waits: a reload, and a number of workers that is asked for after it.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub struct Wishes {
    reload: bool,
    scale: Option<Scale>,
}

impl Wishes {
    /// Asks for a reload. It brings its own number of workers, so one that was asked for before is forgotten.
    pub fn reload(&mut self) {
        *self = Wishes {
            reload: true,
            scale: None,
        };
    }

    /// What is left of them after an upgrade, which is a reload itself: a number that was asked for meanwhile comes next.
    pub fn after_upgrade(self) -> Self {
        Wishes {
            reload: true,
            ..self
        }
    }

    /// Asks for a number of workers. Steps add up.
    pub fn scale(&mut self, scale: Scale) {
        self.scale = Some(match (self.scale, scale) {
            (Some(Scale::By(before)), Scale::By(by)) => Scale::By(before.saturating_add(by)),
            (Some(Scale::To(workers)), Scale::By(by)) => {
                Scale::To(workers.saturating_add_signed(by as isize))
            }
            (_, scale) => scale,
        });
    }

    /// Whether something waits.
    pub fn are_there(&self) -> bool {
        self.reload || self.scale.is_some()
    }

    pub fn forget(&mut self) {
        *self = Wishes::default();
    }

    /// The next change, the reload first.
    pub fn take(&mut self) -> Option<Wish> {
        match std::mem::take(&mut self.reload) {
            true => Some(Wish::Reload),
            false => self.scale.take().map(Wish::Scale),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_and_a_reload_forgets_what_was_before_it() {
        let mut wishes = Wishes::default();
        assert_eq!(wishes.take(), None);
        assert!(!wishes.are_there());
        wishes.scale(Scale::By(1));
        assert!(wishes.are_there());
        wishes.scale(Scale::By(1));
        assert_eq!(wishes.take(), Some(Wish::Scale(Scale::By(2))));
        assert_eq!(wishes.take(), None);

        wishes.scale(Scale::By(1));
        wishes.scale(Scale::To(5));
        wishes.scale(Scale::By(-2));
        assert_eq!(wishes.take(), Some(Wish::Scale(Scale::To(3))));

        wishes.scale(Scale::To(5));
        wishes.reload();
        wishes.reload();
        wishes.scale(Scale::To(2));
        assert_eq!(wishes.take(), Some(Wish::Reload));
        assert_eq!(wishes.take(), Some(Wish::Scale(Scale::To(2))));
        assert_eq!(wishes.take(), None);

        wishes.scale(Scale::By(1));
        let mut wishes = wishes.after_upgrade();
        assert_eq!(wishes.take(), Some(Wish::Reload));
        assert_eq!(wishes.take(), Some(Wish::Scale(Scale::By(1))));

        wishes.reload();
        wishes.scale(Scale::To(2));
        wishes.forget();
        assert_eq!(wishes.take(), None);
    }
}
