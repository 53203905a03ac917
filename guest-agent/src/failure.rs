//! From system errors to [`wire::Failure`]: what was being done, and why it failed.

use std::io;

use nix::errno::Errno;
use wire::Failure;

/// Adds to an error what was being done.
pub(crate) trait Doing<T> {
    /// Turns an error into a failure of this action, such as "open `/x`".
    fn doing<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| from_io(action(), &error.into()))
    }
}

/// A failure whose cause is no error of the system.
pub(crate) fn failure(action: impl Into<String>, reason: impl Into<String>) -> Failure {
    Failure { action: action.into(), reason: reason.into(), errno: None }
}

fn from_io(action: impl Into<String>, error: &io::Error) -> Failure {
    let errno = error.raw_os_error();
    // The number goes into its own field; std would add "(os error 2)".
    let reason = match errno {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    Failure { action: action.into(), reason, errno }
}
