//! A private Prometheus: scrapes one address as often as it can, evaluates rules if there are any, and answers queries.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::dir::Dir;
use super::process::{end, find_program, free_port, guarded, spawn};
use super::wait::{PATIENCE, comes_true};

pub struct Prometheus {
    _dir: Dir,
    address: SocketAddr,
    server: Child,
}

/// The tool that checks configurations and rules.
pub fn promtool() -> PathBuf {
    find_program("promtool", "/usr/lib/prometheus")
}

impl Prometheus {
    /// Scrapes `target` once a second under the name of `job`, and evaluates the rules of this file.
    pub fn watch(job: &str, target: SocketAddr, rules: &Path) -> Self {
        let dir = Dir::new();
        let configuration = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n  - job_name: {job}\n    static_configs: [{{targets: [\"{target}\"]}}]\n",
            rules.display()
        );
        let configuration = dir.write("prometheus.yml", &configuration);
        for _ in 0..5 {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let log = File::create(dir.join("prometheus.log")).expect("a log");
            let mut command = guarded(
                find_program("prometheus", "/usr/lib/prometheus"),
                Signal::SIGKILL,
                None,
            );
            command
                .arg(format!("--config.file={}", configuration.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    dir.join("data").display()
                ))
                .arg(format!("--web.listen-address={address}"))
                .arg("--log.level=warn")
                .current_dir(dir.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            let mut server = spawn(command).expect("Prometheus");
            let mut has_ended = false;
            let is_ready = comes_true(PATIENCE, || {
                has_ended = server.try_wait().expect("our own child").is_some();
                has_ended || ready(address)
            });
            if is_ready && !has_ended {
                return Prometheus {
                    _dir: dir,
                    address,
                    server,
                };
            }
            end(&mut server);
        }
        let log = std::fs::read_to_string(dir.join("prometheus.log")).unwrap_or_default();
        panic!("Prometheus does not start: {log}");
    }

    /// What the query answers now: the samples' labels and values.
    ///
    /// # Errors
    /// What Prometheus says is wrong with it.
    pub fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let answer = self.get(&format!("/api/v1/query?query={}", encoded(query)))?;
        match &answer["result"] {
            Value::Array(samples) if answer["resultType"] == "vector" => Ok(samples.clone()),
            // A scalar, such as of `time()`.
            other => Ok(vec![other.clone()]),
        }
    }

    /// All rules of all groups, with their health.
    pub fn rules(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/rules").expect("the rules");
        let groups = answer["groups"].as_array().cloned().unwrap_or_default();
        groups
            .iter()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect()
    }

    fn get(&self, target: &str) -> Result<Value, String> {
        let body = get(self.address, target).map_err(|error| error.to_string())?;
        let mut answer: Value =
            serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer["error"].to_string()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        end(&mut self.server);
    }
}

fn ready(address: SocketAddr) -> bool {
    get(address, "/-/ready").is_ok_and(|body| body.contains("Ready"))
}

/// The content of an answer. In HTTP/1.0, for to a later version Prometheus answers in chunks, which the tests' client does
/// not read.
fn get(address: SocketAddr, target: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {target} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(body.to_owned())
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
