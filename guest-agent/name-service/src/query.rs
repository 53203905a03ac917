//! DNS queries and responses (RFC 1035), with one question and at most one address.

use std::net::Ipv4Addr;

use wire::egress::{Refusal, RefusalKind};

use crate::Names;

/// The maximum size of a query in bytes: what the protocol allows over UDP without extensions.
pub const QUERY_MAX_BYTES: usize = 512;

/// The size of the fixed header of a message, in bytes.
const HEAD_BYTES: usize = 12;

/// The maximum length of a name, in bytes.
const NAME_MAX_BYTES: usize = 253;

/// How long clients may cache an answer, in seconds: longer than a download takes to begin, and
/// shorter than the time until an address is assigned to another name.
const TTL_SECONDS: u32 = 60;

/// Types and classes of DNS records.
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const CLASS_IN: u16 = 1;

/// A DNS response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The name exists, with or without data of the requested type.
    NoError = 0,
    /// The query cannot be parsed.
    Format = 1,
    /// The name could not be resolved at the moment; the client may try again.
    ServerFailure = 2,
    /// The name does not exist.
    NoSuchName = 3,
    /// Queries of this kind are not supported.
    NotImplemented = 4,
}

impl Code {
    /// Returns the response code for a name that the host did not resolve.
    #[must_use]
    pub fn of(refusal: &Refusal) -> Self {
        match refusal.kind {
            RefusalKind::Nxdomain | RefusalKind::Policy => Self::NoSuchName,
            _ => Self::ServerFailure,
        }
    }
}

/// A parsed question, with the offset of its end in the query.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// The name in lower case, without a final dot.
    pub name: String,
    kind: u16,
    class: u16,
    end: usize,
}

/// Parses the one question of a query. Returns `None` for a message that gets no response, and a
/// response code as the error for a query that is refused.
#[must_use]
pub fn parse(query: &[u8]) -> Option<Result<Question, Code>> {
    let head = query.get(..HEAD_BYTES)?;
    if head[2] & 0x80 != 0 {
        // This is a response: answering it could go on for ever.
        return None;
    }
    if head[2] & 0x78 != 0 {
        return Some(Err(Code::NotImplemented));
    }
    if head[4..6] != [0, 1] {
        return Some(Err(Code::Format));
    }
    Some(parse_question(query).ok_or(Code::Format))
}

fn parse_question(query: &[u8]) -> Option<Question> {
    let mut name = String::new();
    let mut position = HEAD_BYTES;
    loop {
        let length = usize::from(*query.get(position)?);
        position += 1;
        if length == 0 {
            break;
        }
        // The name of the first question cannot contain a pointer, as no name precedes it.
        let label = query.get(position..position + length).filter(|_| length < 64)?;
        position += length;
        if !name.is_empty() {
            name.push('.');
        }
        // The host refuses names that are not valid host names; here a name must only be text.
        let text = std::str::from_utf8(label).ok().filter(|text| text.is_ascii())?;
        name.push_str(&text.to_ascii_lowercase());
        if name.len() > NAME_MAX_BYTES {
            return None;
        }
    }
    let rest: [u8; 4] = query.get(position..position + 4)?.try_into().ok()?;
    Some(Question {
        name,
        kind: u16::from_be_bytes([rest[0], rest[1]]),
        class: u16::from_be_bytes([rest[2], rest[3]]),
        end: position + 4,
    })
}

/// Builds the response to a query.
#[must_use]
pub fn respond(
    query: &[u8],
    question: Option<&Question>,
    code: Code,
    address: Option<Ipv4Addr>,
) -> Vec<u8> {
    let end = question.map_or(HEAD_BYTES, |question| question.end);
    let mut response = query.get(..end).unwrap_or_default().to_vec();
    // Flags: a response, recursion desired as in the query, recursion available.
    response[2] = 0x80 | (query[2] & 0x01);
    response[3] = 0x80 | code as u8;
    let counts = [u16::from(question.is_some()), u16::from(address.is_some()), 0, 0];
    for (field, count) in response[4..HEAD_BYTES].chunks_mut(2).zip(counts) {
        field.copy_from_slice(&count.to_be_bytes());
    }
    if let Some(address) = address {
        // The name is a pointer to the beginning of the question.
        response.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        response.extend_from_slice(&TTL_SECONDS.to_be_bytes());
        response.extend_from_slice(&[0, 4]);
        response.extend_from_slice(&address.octets());
    }
    response
}

/// Answers a question without asking the host; returns `None` if the host must be asked.
#[must_use]
pub fn answer_here(question: &Question, names: &Names) -> Option<(Code, Option<Ipv4Addr>)> {
    match question.kind {
        _ if question.class != CLASS_IN => Some((Code::NotImplemented, None)),
        TYPE_A if question.name == "localhost" || question.name.ends_with(".localhost") => {
            Some((Code::NoError, Some(Ipv4Addr::LOCALHOST)))
        }
        TYPE_A => names.known(&question.name).map(|address| (Code::NoError, Some(address))),
        TYPE_PTR => Some((Code::NoSuchName, None)),
        // Mainly AAAA: programs then continue with the IPv4 address.
        _ => Some((Code::NoError, None)),
    }
}

/// Parses a query and builds the response to it, for the fuzz target.
pub fn read_query(query: &[u8]) {
    let names = Names::default();
    match parse(query) {
        Some(Ok(question)) => {
            assert!(question.end <= query.len() && question.name.len() <= NAME_MAX_BYTES);
            let (code, address) = answer_here(&question, &names).unwrap_or((Code::NoError, None));
            let response = respond(query, Some(&question), code, address);
            assert!(response.starts_with(&query[..2]) && response[2] & 0x80 != 0);
        }
        Some(Err(code)) => assert_eq!(respond(query, None, code, None).len(), HEAD_BYTES),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        // An OPT record, as glibc sends with `options edns0`.
        bytes.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_question_is_answered_with_its_own_bytes() {
        let bytes = query("Deb.Example", TYPE_A);
        let question = parse(&bytes).unwrap().unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("deb.example", TYPE_A));
        let address = Ipv4Addr::new(198, 18, 0, 1);
        let response = respond(&bytes, Some(&question), Code::NoError, Some(address));
        assert_eq!(response[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(response[12..question.end], bytes[12..question.end]);
        assert!(response.ends_with(&[0, 4, 198, 18, 0, 1]));
        let response = respond(&bytes, Some(&question), Code::NoSuchName, None);
        assert_eq!((response[3], response.len()), (0x83, question.end));
    }

    #[test]
    fn what_is_known_here_needs_no_host() {
        let names = Names::default();
        let question = |name: &str, kind| parse(&query(name, kind)).unwrap().unwrap();
        assert_eq!(answer_here(&question("a.b", TYPE_A), &names), None);
        assert_eq!(answer_here(&question("a.b", 28), &names), Some((Code::NoError, None)));
        let reverse = question("1.0.18.198.in-addr.arpa", TYPE_PTR);
        assert_eq!(answer_here(&reverse, &names), Some((Code::NoSuchName, None)));
        let local = Some((Code::NoError, Some(Ipv4Addr::LOCALHOST)));
        assert_eq!(answer_here(&question("localhost", TYPE_A), &names), local);
        let address = names.give("a.b");
        let known = Some((Code::NoError, Some(address)));
        assert_eq!(answer_here(&question("a.b", TYPE_A), &names), known);
    }

    #[test]
    fn hostile_queries_are_refused_or_ignored() {
        let good = query("a.example", TYPE_A);
        for end in 0..HEAD_BYTES {
            assert_eq!(parse(&good[..end]), None);
        }
        for end in HEAD_BYTES..good.len() - 11 {
            assert_eq!(parse(&good[..end]), Some(Err(Code::Format)), "{end}");
        }
        let with = |index: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[index] = value;
            parse(&bytes)
        };
        assert_eq!(with(2, 0x81), None);
        assert_eq!(with(2, 0x28), Some(Err(Code::NotImplemented)));
        assert_eq!(with(5, 2), Some(Err(Code::Format)));
        assert_eq!(with(12, 0xc0), Some(Err(Code::Format)));
        assert_eq!(with(13, 0xff), Some(Err(Code::Format)));
        let long = vec!["x".repeat(60); 6].join(".");
        assert_eq!(parse(&query(&long, TYPE_A)), Some(Err(Code::Format)));
    }
}
