//! `canvas-cluster top`: the real binary in a real terminal (a pty), read by a terminal emulator. It shows a server, lives on
//! when that goes, and gives the terminal back as it was.

use std::io::{ErrorKind, Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{InputFlags, LocalFlags, tcgetattr};

use crate::support::canvas::binary;
use crate::support::process::{end, guarded, signal, spawn, wait_for_exit};
use crate::support::{Backend, Canvas, PATIENCE, wait_until};

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

/// A terminal that `top` runs in.
struct Terminal {
    /// The end that a terminal emulator has.
    keyboard: std::fs::File,
    /// The end that the program has.
    line: OwnedFd,
    emulator: vt100::Parser,
    top: Child,
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has some")
}

fn size(columns: u16, lines: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: lines,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Where a server of this backend is asked how it is.
fn admin(backend: &Backend) -> PathBuf {
    let runtime = Canvas::new(backend.dir.path()).runtime_home();
    runtime.join("canvas-cluster/admin.sock")
}

impl Terminal {
    /// Starts `top` in a terminal of 80 columns and 24 lines.
    fn start(backend: &Backend) -> Self {
        let pty = openpty(Some(&size(80, 24)), None).expect("a pty");
        let set = |end: &OwnedFd, what| fcntl(end, what).expect("our own descriptor");
        set(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        for end in [&pty.master, &pty.slave] {
            set(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        let mut command = guarded(binary(), Signal::SIGKILL, None);
        let lend = || pty.slave.try_clone().expect("one more descriptor");
        command
            .args(["top", "--interval", "200ms", "--admin"])
            .arg(format!("unix:{}", admin(backend).display()))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm-256color")
            .stdin(lend())
            .stdout(lend())
            .stderr(lend());
        Terminal {
            keyboard: std::fs::File::from(pty.master),
            line: pty.slave,
            emulator: vt100::Parser::new(cells(24), cells(80), 0),
            top: spawn(command).expect("the binary under test"),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("a terminal");
    }

    /// Shows what was written since.
    fn show(&mut self) -> String {
        let mut piece = [0; 4096];
        loop {
            match self.keyboard.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => self.emulator.process(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the terminal breaks: {error}"),
            }
        }
        self.emulator.screen().contents()
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        wait_until(PATIENCE, &format!("{text:?} on the screen"), || {
            self.show().contains(text)
        });
    }

    #[track_caller]
    fn wait_until_gone(&mut self, text: &str) {
        wait_until(PATIENCE, &format!("a screen without {text:?}"), || {
            !self.show().contains(text)
        });
    }

    fn resize(&mut self, columns: u16, lines: u16) {
        self.emulator
            .screen_mut()
            .set_size(cells(lines), cells(columns));
        // SAFETY: the size is a whole one, and lives longer than the call.
        unsafe { set_size(self.line.as_raw_fd(), &size(columns, lines)) }.expect("a terminal");
        // The kernel tells it to the foreground processes of a session that has this terminal; the test's has another.
        self.signal(Signal::SIGWINCH);
    }

    fn signal(&self, which: Signal) {
        signal(self.top.id() as i32, which);
    }

    /// Waits for the exit, and checks that the terminal is as it was.
    #[track_caller]
    fn expect_end(&mut self, code: i32) {
        let status = wait_for_exit(&mut self.top, PATIENCE, "top");
        assert_eq!(status.code(), Some(code));
        self.show();
        let screen = self.emulator.screen();
        assert!(!screen.alternate_screen(), "it shows what was there before");
        assert!(!screen.hide_cursor(), "it has its cursor");
        let modes = tcgetattr(self.line.as_fd()).expect("a terminal");
        let cooked = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        assert!(modes.local_flags.contains(cooked), "{modes:?}");
        assert!(modes.input_flags.contains(InputFlags::ICRNL), "{modes:?}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        end(&mut self.top);
    }
}

#[test]
fn a_terminal_shows_the_server_and_is_given_back() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let mut terminal = Terminal::start(&backend);
    terminal.wait_for("2/2 ready");
    assert!(terminal.emulator.screen().alternate_screen());
    for pid in server.workers() {
        terminal.wait_for(&pid.to_string());
    }
    terminal.press("h");
    terminal.wait_for("stop the picture");
    terminal.press("h");
    terminal.wait_until_gone("stop the picture");
    // `queue` is a column that 80 columns have no room for.
    terminal.wait_until_gone("queue");
    terminal.resize(160, 50);
    terminal.wait_for("queue");
    terminal.press("p");
    terminal.wait_for("paused");
    terminal.press("q");
    terminal.expect_end(0);
    server.stop();
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_given_back() {
    let backend = Backend::sqlite();
    for (which, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
        (Signal::SIGINT, 130),
    ] {
        let mut terminal = Terminal::start(&backend);
        terminal.wait_for("no server listens at");
        terminal.signal(which);
        terminal.expect_end(code);
    }
    let mut terminal = Terminal::start(&backend);
    terminal.wait_for("no server listens at");
    terminal.press("\x03");
    terminal.expect_end(0);
}

#[test]
fn it_outlives_the_server_and_shows_the_next_one() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let mut terminal = Terminal::start(&backend);
    terminal.wait_for("1/1 ready");
    server.stop();
    terminal.wait_for("no answer for");
    let server = backend.serve(2);
    terminal.wait_for("2/2 ready");
    terminal.wait_until_gone("no answer for");
    server.stop();
    terminal.press("q");
    terminal.expect_end(0);
}

#[test]
fn without_a_terminal_it_says_what_there_is_instead() {
    let backend = Backend::sqlite();
    let top = || backend.tool("top");
    top()
        .run()
        .expect(100)
        .naming(&["terminal", "canvas-cluster status"]);
    top()
        .args(["--admin", "none"])
        .run()
        .expect(112)
        .naming(&["admin is none"]);
    top()
        .args(["--interval", "1ms"])
        .run()
        .expect(100)
        .naming(&["--interval", "200ms to 1m"]);
}
