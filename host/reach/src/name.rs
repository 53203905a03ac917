//! Host names in requests and URLs, and names that are valid in the user's own network only.

use std::{fmt, net::IpAddr, str::FromStr};

/// Maximum length of a name in bytes (RFC 1035 section 2.3.4).
const NAME_MAX_BYTES: usize = 253;

/// Maximum length of a label in bytes (same section).
const LABEL_MAX_BYTES: usize = 63;

/// Maximum characters of an invalid name in its error.
const SHOWN_MAX_CHARS: usize = 80;

/// A host in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name, in lower case and without a final dot.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A text that is neither a name nor an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a host name: {reason}")]
pub struct InvalidHost {
    /// The text, printable and truncated.
    pub text: String,
    /// The reason.
    pub reason: &'static str,
}

impl InvalidHost {
    fn new(text: &str, reason: &'static str) -> Self {
        let shown = text.chars().take(SHOWN_MAX_CHARS);
        Self { text: shown.flat_map(char::escape_default).collect(), reason }
    }
}

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let invalid = |reason| Err(InvalidHost::new(text, reason));
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > NAME_MAX_BYTES {
            return invalid("it is empty or too long");
        }
        for label in name.split('.') {
            let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            if !(1..=LABEL_MAX_BYTES).contains(&label.len()) || !label.as_bytes().iter().all(good) {
                return invalid("it has a label that no name has");
            }
        }
        // Old resolvers and proxies read `127.1` and `0x7f000001` as addresses; only the standard
        // notation is accepted as one here.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hexadecimal = last.to_ascii_lowercase().starts_with("0x");
        if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
            return invalid("it is an address in an unusual notation");
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

/// Why a name belongs to the user's own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalName {
    /// `localhost`, or a name below it: the machine that resolves it.
    Localhost,
    /// A name without a dot, which the resolver completes with its search list.
    SingleLabel,
    /// A name in a domain that exists in private networks only.
    PrivateDomain(&'static str),
}

impl fmt::Display for LocalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost => f.write_str("a name of the host itself"),
            Self::SingleLabel => f.write_str("a name without a domain"),
            Self::PrivateDomain(domain) => {
                write!(f, "a name below `{domain}`, which is for private networks")
            }
        }
    }
}

/// Domains that the public DNS will never contain, each with its source.
const PRIVATE_DOMAINS: &[(&str, &str)] = &[
    ("local", "RFC 6762"),
    ("internal", "ICANN board resolution 2024.07.29.06"),
    ("home.arpa", "RFC 8375"),
    ("localdomain", "the default domain of resolvers and installers"),
    ("intranet", "RFC 6762, appendix G"),
    ("private", "RFC 6762, appendix G"),
    ("corp", "RFC 6762, appendix G; ICANN board resolution 2018.02.04.12"),
    ("home", "RFC 6762, appendix G; ICANN board resolution 2018.02.04.12"),
    ("lan", "RFC 6762, appendix G"),
    ("mail", "ICANN board resolution 2018.02.04.12"),
];

/// Whether a name is valid in the user's own network only, whatever it resolves to.
#[must_use]
pub fn local_name(name: &str) -> Option<LocalName> {
    let is_or_below = |domain: &str| {
        name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if is_or_below("localhost") {
        return Some(LocalName::Localhost);
    }
    if !name.contains('.') {
        return Some(LocalName::SingleLabel);
    }
    let domain = PRIVATE_DOMAINS.iter().find(|(domain, _)| is_or_below(domain));
    domain.map(|(domain, _)| LocalName::PrivateDomain(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_strictly() {
        let name = |text: &str| text.parse::<Host>().map(|h| h.to_string());
        assert_eq!(name("Deb.Example.").unwrap(), "deb.example");
        assert_eq!(name("[::1]").unwrap(), "::1");
        assert_eq!(name("_srv.a-b.c").unwrap(), "_srv.a-b.c");
        let long = ["a"; 200].join(".");
        for bad in ["", ".", "a..b", "a b", "a/b", "ä.example", "127.1", "0x7f.0x1", &long] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for bad in ["2130706433", "0x7f000001", "1.2.3.4.5", "a\u{0}b", "-.-.0x1F", "x\n"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_private_networks() {
        for name in ["localhost", "a.localhost"] {
            assert_eq!(local_name(name), Some(LocalName::Localhost), "{name}");
        }
        for name in ["intranet", "nas", "local"] {
            assert_eq!(local_name(name), Some(LocalName::SingleLabel), "{name}");
        }
        for name in ["metadata.google.internal", "printer.local", "nas.home.arpa", "a.b.corp"] {
            assert!(matches!(local_name(name), Some(LocalName::PrivateDomain(_))), "{name}");
        }
        for name in ["localhost.evil.example", "deb.example", "evilocal.example", "a.alocal"] {
            assert_eq!(local_name(name), None, "{name}");
        }
    }
}
