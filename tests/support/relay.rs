//! A network between the server and its database, for tests to break: packets vanish without a word, connections are
//! reset, exactly the answer to one question is lost, or answers come byte by byte.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How often a quiet connection looks whether the network has changed, in milliseconds.
const LOOK: u16 = 10;

/// How long the next byte of a trickle lets itself be waited for: less than any time-out of a single read.
const DRIP: Duration = Duration::from_millis(200);

/// A relay to a port of this host. Its threads end with it.
pub struct Relay {
    address: IpAddr,
    port: u16,
    network: Arc<Network>,
}

struct Network {
    weather: Mutex<Weather>,
    /// Connections of an older number are reset.
    resets: AtomicU64,
    /// Connections taken so far.
    taken: AtomicU64,
    /// Those of which nothing will ever be heard again.
    silent: AtomicU64,
}

#[derive(Clone, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Nothing that is sent arrives. Connections that notice stay silent for ever, also once it is fair again, as if a
    /// router had lost its table.
    Hole,
    /// The answer to the first question that holds these bytes is lost, and its connection reset. Then it is fair again.
    LoseAnswerTo(Vec<u8>),
    /// What is asked arrives, and answers come byte by byte, each in time and all of them far too late.
    Trickle,
    Over,
}

impl Relay {
    pub fn to(target: u16) -> Relay {
        Relay::on(Ipv4Addr::LOCALHOST.into(), target)
    }

    /// One that is reached at this address.
    pub fn on(address: IpAddr, target: u16) -> Relay {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let network = Arc::new(Network {
            weather: Mutex::new(Weather::Fair),
            resets: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            silent: AtomicU64::new(0),
        });
        let sky = network.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if sky.weather() == Weather::Over {
                    return;
                }
                sky.taken.fetch_add(1, Ordering::SeqCst);
                let sky = sky.clone();
                thread::spawn(move || sky.carry(client, target));
            }
        });
        Relay {
            address,
            port,
            network,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL with this relay in the place of its target.
    pub fn url(&self, direct: &str, target: u16) -> String {
        let (theirs, ours) = (
            format!("127.0.0.1:{target}"),
            format!("{}:{}", self.address, self.port),
        );
        assert!(direct.contains(&theirs), "a URL to the relay's target");
        direct.replace(&theirs, &ours)
    }

    /// How many connections it has taken.
    pub fn taken(&self) -> u64 {
        self.network.taken.load(Ordering::SeqCst)
    }

    /// How many connections have fallen silent.
    pub fn silent(&self) -> u64 {
        self.network.silent.load(Ordering::SeqCst)
    }

    pub fn swallow_everything(&self) {
        self.network.set(Weather::Hole);
    }

    pub fn trickle(&self) {
        self.network.set(Weather::Trickle);
    }

    pub fn heal(&self) {
        self.network.set(Weather::Fair);
    }

    /// Resets every connection that there is, wherever it is at.
    pub fn reset_all(&self) {
        self.network.resets.fetch_add(1, Ordering::SeqCst);
    }

    pub fn lose_answer_to(&self, word: &str) {
        self.network.set(Weather::LoseAnswerTo(word.into()));
    }

    /// Whether the answer that was to be lost is lost.
    pub fn has_lost_it(&self) -> bool {
        self.network.weather() == Weather::Fair
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.network.set(Weather::Over);
        // The acceptor notices with its next connection.
        let _ = TcpStream::connect((self.address, self.port));
    }
}

impl Network {
    fn weather(&self) -> Weather {
        self.weather.lock().unwrap().clone()
    }

    fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    /// One connection's life.
    fn carry(&self, mut client: TcpStream, target: u16) {
        let born = self.resets.load(Ordering::SeqCst);
        if self.weather() == Weather::Hole {
            return self.be_silent(&client, born);
        }
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)) else {
            return;
        };
        let mut lose = false;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (asked, answered) = ready(&client, &server);
            if self.resets.load(Ordering::SeqCst) != born {
                return reset(client);
            }
            match self.weather() {
                Weather::Over => return,
                Weather::Hole => return self.be_silent(&client, born),
                Weather::LoseAnswerTo(word) if asked => {
                    let Ok(count @ 1..) = client.read(&mut buffer) else {
                        return;
                    };
                    lose = buffer[..count].windows(word.len()).any(|it| it == word);
                    if server.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                    if lose {
                        // Answered is done: the server has carried it out.
                        let _ = server.read(&mut buffer);
                        self.set(Weather::Fair);
                        return reset(client);
                    }
                }
                Weather::Trickle if answered => {
                    if !pass(&mut server, &mut client, &mut buffer[..1]) {
                        return;
                    }
                    thread::sleep(DRIP);
                    continue;
                }
                _ if asked && !pass(&mut client, &mut server, &mut buffer) => return,
                _ => {}
            }
            if answered && !lose && !pass(&mut server, &mut client, &mut buffer) {
                return;
            }
        }
    }

    /// Holds a connection open and says nothing on it.
    fn be_silent(&self, client: &TcpStream, born: u64) {
        self.silent.fetch_add(1, Ordering::SeqCst);
        while self.weather() != Weather::Over {
            let quiet = PollFd::new(client.as_fd(), PollFlags::empty());
            let ended = poll(&mut [quiet], PollTimeout::from(LOOK)).is_ok_and(|count| count > 0);
            if ended || self.resets.load(Ordering::SeqCst) != born {
                return;
            }
        }
    }
}

/// Which of the two has sent something, or ended.
fn ready(client: &TcpStream, server: &TcpStream) -> (bool, bool) {
    let mut both = [client, server].map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN));
    let _ = poll(&mut both, PollTimeout::from(LOOK));
    let heard = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
    (heard(&both[0]), heard(&both[1]))
}

/// Passes on what is there; false at the end.
fn pass(from: &mut TcpStream, to: &mut TcpStream, buffer: &mut [u8]) -> bool {
    match from.read(buffer) {
        Ok(count @ 1..) => to.write_all(&buffer[..count]).is_ok(),
        _ => false,
    }
}

/// Closes a connection so that the other end is reset.
fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    let _ = socket.set_linger(Some(Duration::ZERO));
}
