//! What the service manager is told (sd_notify(3)). Without `NOTIFY_SOCKET` it is told nothing.

use sd_notify::NotifyState;

/// The server's phases, as systemd knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Ready,
    Reloading,
    Stopping,
}

/// Tells the phase and a line for `systemctl status`. A manager that can't be reached is no reason to fail.
pub fn tell(phase: Phase, status: &str) {
    let mut states = vec![NotifyState::Status(status)];
    match phase {
        Phase::Ready => states.push(NotifyState::Ready),
        Phase::Stopping => states.push(NotifyState::Stopping),
        Phase::Reloading => {
            states.push(NotifyState::Reloading);
            // Type=notify-reload wants the moment in the same datagram (systemd 253 and later).
            match NotifyState::monotonic_usec_now() {
                Ok(now) => states.push(now),
                Err(error) => log::debug!("no monotonic clock for the service manager: {error}"),
            }
        }
    }
    if let Err(error) = sd_notify::notify(&states) {
        log::debug!("the service manager can't be told: {error}");
    }
}
