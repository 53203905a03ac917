//! Converts system errors to [`wire::Failure`], which contains the failed action and the reason.

use std::io;

use nix::errno::Errno;
use wire::Failure;

/// Adds the failed action to an error.
pub(crate) trait Doing<T> {
    /// Converts an error to a failure of this action, such as "open `/x`".
    fn doing<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| from_io(action(), &error.into()))
    }
}

/// Creates a failure whose cause is not a system error.
pub(crate) fn failure(action: impl Into<String>, reason: impl Into<String>) -> Failure {
    Failure { action: action.into(), reason: reason.into(), errno: None }
}

fn from_io(action: impl Into<String>, error: &io::Error) -> Failure {
    let errno = error.raw_os_error();
    // The number has its own field; std would append it to the text as "(os error 2)".
    let reason = match errno {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    Failure { action: action.into(), reason, errno }
}
