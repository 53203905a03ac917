//! Prints values as Python does: vmdb2 shows commands and specs in this form under `-v`.

use std::fmt::Write as _;

use super::Value;

/// `repr` of a value.
pub(super) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => repr_float(*number),
        Value::Text(text) => repr_text(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| repr(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", repr(&key.value), repr(&value.value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Other(_, text) => text.clone(),
    }
}

fn repr_float(number: f64) -> String {
    if number.is_nan() {
        "nan".into()
    } else if number.is_infinite() {
        if number > 0.0 { "inf".into() } else { "-inf".into() }
    } else if number != 0.0 && !(1e-4..1e16).contains(&number.abs()) {
        let text = format!("{number:e}");
        // Python writes the exponent with its sign and at least two digits.
        match text.split_once('e') {
            Some((mantissa, exponent)) => match exponent.strip_prefix('-') {
                Some(digits) => format!("{mantissa}e-{digits:0>2}"),
                None => format!("{mantissa}e+{exponent:0>2}"),
            },
            None => text,
        }
    } else {
        format!("{number:?}")
    }
}

/// `repr` of a string: in single quotes, unless it contains single quotes and no double quotes.
pub(super) fn repr_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_python_does() {
        assert_eq!(repr_text("a"), "'a'");
        assert_eq!(repr_text("it's"), "\"it's\"");
        assert_eq!(repr_text("'\""), "'\\'\"'");
        assert_eq!(repr_text("a\n\t\\\u{1}é"), "'a\\n\\t\\\\\\x01é'");
    }

    #[test]
    fn floats_are_printed_as_python_does() {
        for (number, text) in
            [(1.5, "1.5"), (1.0, "1.0"), (1e16, "1e+16"), (1e-5, "1e-05"), (-2.5e20, "-2.5e+20")]
        {
            assert_eq!(repr_float(number), text);
        }
    }
}
