//! How connections to CouchDB are opened: ureq's own TCP, our TLS (the provider and the authorities that every store has), and a
//! note of whether a request has begun to leave. Nothing but that note tells a write that never happened from one that may have.
//!
//! The traits of a transport are ureq's `unversioned` ones: a new minor release may change them.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

thread_local! {
    /// Some byte of this thread's request has been given to a connection. A request is sent by the thread that makes it.
    static SENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs a request; what came of it, and whether any of it was sent.
pub(super) fn noting_sent<T>(request: impl FnOnce() -> T) -> (T, bool) {
    SENT.set(false);
    let outcome = request();
    (outcome, SENT.get())
}

/// The last link of ureq's chain of connectors.
#[derive(Debug)]
pub(super) struct Opener {
    /// `None`: without TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl<In: Transport> Connector<In> for Opener {
    type Out = Wire;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Wire>, ureq::Error> {
        let Some(tcp) = chained else {
            return Ok(None);
        };
        let transport: Box<dyn Transport> = match &self.tls {
            None => Box::new(tcp),
            Some(config) => Box::new(Encrypted::over(Box::new(tcp), config, details)?),
        };
        Ok(Some(Wire(transport)))
    }
}

/// A connection that notes when it is given something to send.
#[derive(Debug)]
pub(super) struct Wire(Box<dyn Transport>);

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        SENT.set(true);
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// TLS over another transport.
struct Encrypted {
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    buffers: LazyBuffers,
}

impl Encrypted {
    fn over(
        tcp: Box<dyn Transport>,
        config: &Arc<ClientConfig>,
        details: &ConnectionDetails<'_>,
    ) -> Result<Self, ureq::Error> {
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host)
            .map_err(io::Error::other)?
            .to_owned();
        let mut connection =
            ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut socket = TransportAdapter::new(tcp, details.current_time.clone());
        // What TCP took of the time is gone.
        let mut timeout = details.timeout;
        if let (Duration::Exact(whole), Instant::Exact(begun)) = (timeout.after, details.now) {
            timeout.after = Duration::Exact(whole.saturating_sub(begun.elapsed()));
        }
        socket.set_timeout(timeout);
        connection.complete_io(&mut socket)?;
        Ok(Encrypted {
            stream: StreamOwned::new(connection, socket),
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
        })
    }
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encrypted")
    }
}
