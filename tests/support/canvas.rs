//! The command line under test: builds a call of the real binary in a clean environment of its own and either
//! runs it to its end or starts it as a server.

use std::ffi::OsString;
use std::io::ErrorKind::PermissionDenied;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use seccompiler::BpfProgram;

use super::process::{guarded, spawn};
use super::server::Server;

/// How long a command that is not a server may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// A call of `canvas-cluster`. Its home, data and state folders are inside the test's folder, and nothing of the
/// tester's environment reaches it but PATH.
#[derive(Clone)]
pub struct Canvas {
    home: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    /// Soft and hard.
    open_files: Option<(u64, u64)>,
    /// The name to run it by, instead of its own.
    program: Option<PathBuf>,
    own_network: bool,
    /// The network namespace that it runs in, by name.
    network: Option<String>,
    /// A filter of system calls that it finds in force.
    filter: Option<Arc<BpfProgram>>,
    /// A capability that it must not have, as setpriv(1) writes it.
    lacking: Option<&'static str>,
    /// Where a server's standard output goes, if anywhere.
    stdout: Option<Arc<OwnedFd>>,
    /// Sockets that it finds open at its start, as from a service manager, each with its name.
    passed: Arc<Vec<(String, OwnedFd)>>,
}

/// The binary under test: the one that CANVAS_TESTED_BINARY names (tests/run names a release build), else cargo's own.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("CANVAS_TESTED_BINARY") {
        Some(named) => std::fs::canonicalize(&named)
            .unwrap_or_else(|error| panic!("CANVAS_TESTED_BINARY names {named:?}: {error}")),
        None => env!("CARGO_BIN_EXE_canvas-cluster").into(),
    })
}

/// What a command that has ended left behind.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Canvas {
    pub fn new(folder: &Path) -> Self {
        let home = folder.join("home");
        std::fs::create_dir_all(&home).expect("a home folder");
        Canvas {
            home,
            arguments: Vec::new(),
            environment: Vec::new(),
            open_files: None,
            program: None,
            own_network: false,
            network: None,
            filter: None,
            lacking: None,
            stdout: None,
            passed: Arc::default(),
        }
    }

    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Gives a server this standard output.
    pub fn stdout(mut self, to: impl Into<OwnedFd>) -> Self {
        self.stdout = Some(Arc::new(to.into()));
        self
    }

    /// Passes these listening sockets, two at most, to a server as sd_listen_fds(3) has it.
    pub fn pass(mut self, sockets: Vec<(String, TcpListener)>) -> Self {
        assert!(
            sockets.len() <= 2,
            "no more than standard input and output can carry"
        );
        let passed = sockets
            .into_iter()
            .map(|(name, socket)| (name, socket.into()));
        self.passed = Arc::new(passed.collect());
        self
    }

    pub fn workers(self, count: usize) -> Self {
        self.arg("--workers").arg(count.to_string())
    }

    /// Runs it with this limit on open files, soft and hard.
    pub fn open_files(self, limit: u64) -> Self {
        self.open_files_up_to(limit, limit)
    }

    /// Runs it with this limit on open files, which it may raise so far.
    pub fn open_files_up_to(mut self, soft: u64, hard: u64) -> Self {
        self.open_files = Some((soft, hard));
        self
    }

    /// Runs it with this filter of system calls in force.
    pub fn filter(mut self, program: BpfProgram) -> Self {
        self.filter = Some(Arc::new(program));
        self
    }

    /// Runs it by this name: a link to it, or a copy.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// Runs it without this capability.
    pub fn lacking(mut self, capability: &'static str) -> Self {
        self.lacking = Some(capability);
        self
    }

    /// Runs it in a network namespace of its own, which has the kernel's defaults and may be tuned. Takes root.
    pub fn own_network(mut self) -> Self {
        self.own_network = true;
        self
    }

    /// Runs it in this network namespace. Takes root.
    pub fn network(mut self, name: &str) -> Self {
        self.network = Some(name.to_owned());
        self
    }

    /// The folder that `$XDG_DATA_HOME` names.
    pub fn data_home(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The folder that `$XDG_RUNTIME_DIR` names.
    pub fn runtime_home(&self) -> PathBuf {
        self.home.join("run")
    }

    /// Starts it as a server on a free port of loopback and waits until every worker serves.
    #[track_caller]
    pub fn start(self) -> Server {
        let mut server = self.launch();
        server.wait_until_ready();
        server
    }

    /// Starts it as a server on a free port without waiting.
    #[track_caller]
    pub fn launch(self) -> Server {
        self.arg("--listen").arg("127.0.0.1:0").launch_as_it_is()
    }

    /// Starts it as a server with no more options than given.
    #[track_caller]
    pub fn launch_as_it_is(self) -> Server {
        Server::launch(self.command(), &self.home)
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Ended {
        let name = format!("canvas-cluster {:?}", self.arguments);
        // Files, not pipes: whatever the amount of output, nobody has to read it for the command to end.
        let (out, err) = (
            tempfile::tempfile().expect("a file"),
            tempfile::tempfile().expect("a file"),
        );
        let mut command = self.command();
        command
            .stdout(out.try_clone().expect("one more descriptor"))
            .stderr(err.try_clone().expect("one more descriptor"));
        let mut child = spawn(command).expect("the binary under test");
        let mut status = None;
        let ended = super::wait::comes_true(COMMAND_PATIENCE, || {
            status = child.try_wait().expect("waiting for our own child");
            status.is_some()
        });
        if !ended {
            super::process::end(&mut child);
        }
        let ended_as = Ended {
            code: status.and_then(|status| status.code()),
            stdout: read(out),
            stderr: read(err),
        };
        assert!(ended, "{name} does not end: {ended_as:?}");
        ended_as
    }

    fn command(&self) -> Command {
        let program = self.program.as_deref().unwrap_or(binary());
        let mut command = match self.open_files {
            None if !self.passed.is_empty() => self.passing_command(),
            None if self.network.is_some() => {
                let mut command = guarded("ip", Signal::SIGKILL, None);
                command.args(["netns", "exec"]).args(&self.network);
                command.arg(program);
                command
            }
            None if self.own_network => {
                let mut command = guarded("unshare", Signal::SIGKILL, None);
                command.args(["--net", "--"]).arg(program);
                command
            }
            None => match self.lacking.filter(|_| nix::unistd::geteuid().is_root()) {
                None => guarded(program, Signal::SIGKILL, None),
                Some(capability) => {
                    let mut command = guarded("setpriv", Signal::SIGKILL, None);
                    command.arg(format!("--bounding-set=-{capability}"));
                    command.arg("--").arg(program);
                    command
                }
            },
            Some((soft, hard)) => {
                let mut command = guarded("prlimit", Signal::SIGKILL, None);
                command.arg(format!("--nofile={soft}:{hard}"));
                // Without what would let it raise the limit again.
                if nix::unistd::geteuid().is_root() {
                    command.args(["setpriv", "--bounding-set", "-sys_resource", "--"]);
                }
                command.arg(program);
                command
            }
        };
        if let Some(filter) = self.filter.clone() {
            let install =
                move || seccompiler::apply_filter(&filter).map_err(|_| PermissionDenied.into());
            // SAFETY: between fork and exec it makes two system calls, and takes no memory or lock.
            unsafe { command.pre_exec(install) };
        }
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("XDG_DATA_HOME", self.data_home())
            // Tests leave the host as it is.
            .env("CANVAS_TUNE_HOST", "false")
            // What a person reads on a terminal; tests/logging.rs has the other formats.
            .env("CANVAS_LOG_FORMAT", "text")
            .env("XDG_RUNTIME_DIR", self.runtime_home())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.home)
            .stdin(match self.passed.first() {
                Some((_, socket)) => lend(socket),
                None => Stdio::null(),
            })
            .stdout(match (self.passed.get(1), &self.stdout) {
                (Some((_, socket)), _) => lend(socket),
                (None, Some(to)) => lend(to),
                (None, None) => Stdio::null(),
            });
        command
    }

    /// A shell that moves what it has as standard input and output to where a service manager leaves it, and becomes the
    /// binary, whose pid it knows that way.
    fn passing_command(&self) -> Command {
        let names: Vec<&str> = self.passed.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = guarded("sh", Signal::SIGKILL, None);
        command.arg("-c").arg(format!(
            "export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES='{}'; exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null",
            names.len(),
            names.join(":")
        ));
        command.arg(binary());
        command
    }
}

impl Ended {
    /// Everything that it printed.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "unexpected exit: {self:?}");
        self
    }

    /// Checks that the output names each of these.
    #[track_caller]
    pub fn naming(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.output().contains(word),
                "`{word}` is not named: {self:?}"
            );
        }
        self
    }
}

fn lend(fd: &OwnedFd) -> Stdio {
    Stdio::from(fd.try_clone().expect("one more descriptor"))
}

fn read(mut file: std::fs::File) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .expect("our own file");
    String::from_utf8_lossy(&bytes).into_owned()
}
