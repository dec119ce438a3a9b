//! What the connection loop knows of the service behind it: a trait of four orders.

use super::context::Context;
use super::head::Head;
use super::request_id::RequestId;
use super::response::Response;

/// Answers requests. One value serves all connections of a worker; its methods run on coroutines.
pub trait Service: Send + Sync + 'static {
    /// A request whose head passed, kept while its body is read.
    type Call;

    /// Decides from the head alone, before a body is asked for.
    ///
    /// # Errors
    /// The answer, when it is already known (no such path, no credentials, wrong content type, …).
    fn admit(&self, head: &Head<'_>, id: &RequestId) -> Result<Self::Call, Box<Response>>;

    /// Answers an admitted request. May wait, and notes what for; must not block the thread.
    fn answer(&self, call: Self::Call, body: &[u8], context: &Context) -> Response;

    /// Words a refusal that the connection decided on.
    fn refuse(&self, status: u16, why: &str, id: &RequestId) -> Response;

    /// The answer to a request whose handling panicked.
    fn fault(&self, id: &RequestId) -> Response;
}
