//! How many of a worker's lanes the database has a connection for. Pure but for the line in the log.

use crate::store::Room;

/// A worker's part of the connections that a database lets in.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Lanes of each worker, as configured; at least 1.
    pub lanes: usize,
    /// Workers of this host; at least 1.
    pub workers: usize,
    /// Connections of each worker besides: to hear of writes made past it, and to watch how far the database has been written.
    pub others: usize,
    /// This worker says what the share is; the others would say the same.
    pub speaks: bool,
}

/// Generations of workers that live at the same time: during a reload or an upgrade the old one still serves.
const GENERATIONS: usize = 2;

impl Share {
    /// How many lanes may ask the database, at least 1; `None` while that is not known.
    pub fn lanes_for(&self, room: Room) -> Option<usize> {
        match room {
            Room::Unknown => None,
            Room::Ample => Some(self.lanes),
            Room::Connections(connections) => {
                let each = connections as usize / (self.workers.max(1) * GENERATIONS);
                let each = each.saturating_sub(self.others);
                Some(self.lanes.min(each).max(1))
            }
        }
    }

    /// Says so if the database has too few for the lanes.
    pub fn tell(&self, room: Room) {
        let Room::Connections(connections) = room else {
            return;
        };
        let needed = (self.lanes + self.others) * self.workers * GENERATIONS;
        if self.speaks && needed > connections as usize {
            log::warn!(
                "store: the database lets {connections} connections in, and {} workers with {} lanes each want up to {needed} \
                 while they are replaced: each worker uses {}; raise its max_connections or lower --lanes",
                self.workers,
                self.lanes,
                self.lanes_for(room).unwrap_or(1)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_generations_of_all_workers_fit_in() {
        let share = |lanes, workers| Share {
            lanes,
            workers,
            others: 0,
            speaks: false,
        };
        assert_eq!(share(4, 4).lanes_for(Room::Connections(97)), Some(4));
        assert_eq!(share(4, 16).lanes_for(Room::Connections(97)), Some(3));
        assert_eq!(share(4, 64).lanes_for(Room::Connections(97)), Some(1));
        assert_eq!(share(4, 4).lanes_for(Room::Connections(32)), Some(4));
        assert_eq!(share(4, 4).lanes_for(Room::Connections(31)), Some(3));
        assert_eq!(share(4, 4).lanes_for(Room::Unknown), None);
        assert_eq!(share(4, 4).lanes_for(Room::Ample), Some(4));
        let hearing = |lanes, workers| Share {
            others: 1,
            ..share(lanes, workers)
        };
        assert_eq!(hearing(4, 4).lanes_for(Room::Connections(40)), Some(4));
        assert_eq!(hearing(4, 4).lanes_for(Room::Connections(39)), Some(3));
        assert_eq!(hearing(4, 4).lanes_for(Room::Connections(8)), Some(1));
        for (lanes, workers, room) in [(64, 64, 1), (1, 1, 0), (7, 3, 100)] {
            let used = share(lanes, workers)
                .lanes_for(Room::Connections(room))
                .expect("known");
            assert!(used == 1 || used * workers * GENERATIONS <= room as usize);
        }
    }
}
