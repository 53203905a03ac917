//! Errors with their causes on one line, as messages show them.

/// The texts of an error and of its causes, outermost first. A cause contained in the text
/// before it is omitted.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut lines = vec![error.to_string()];
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let text = cause.to_string();
        if !lines.last().is_some_and(|above| above.contains(&text)) {
            lines.push(text);
        }
    }
    lines
}

/// An error with its causes on one line; see [`causes`].
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    causes(error).join(": ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_follow_the_error() {
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "outer: inner");
        assert_eq!(chain(&Outer(io::Error::other("out"))), "outer");
    }
}
