//! The trait of types that are parsed from and printed as terms, and the macro that defines types
//! from B9's constructors.

use super::{
    Shown,
    read::{Value, article},
    tree::Kind,
};
use crate::place::{Fault, Text};

/// A type that has the form of a Haskell term.
pub(crate) trait Term: Sized {
    /// Its Haskell name, for messages.
    fn type_name() -> String;

    /// Parses it.
    ///
    /// # Errors
    /// Fails if the value does not match the type.
    fn read(value: Value<'_>) -> Result<Self, Fault>;

    /// Converts it to a printable term.
    fn shown(&self) -> Shown;
}

impl Term for Text {
    fn type_name() -> String {
        "string in double quotes".into()
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        let bare = value.bare();
        let at = bare.at();
        match bare.single() {
            Some(Kind::Text(text)) => Ok(Self { text: text.clone(), at }),
            Some(Kind::List(items)) => {
                let chars = bare.items(Self::type_name)?.map(|item| match item.single() {
                    Some(Kind::Char(c)) => Ok(*c),
                    _ => Err(item.unexpected("a character like 'a'")),
                });
                let text: Result<String, Fault> = chars.collect();
                text.map(|text| Self { text, at }).map_err(|fault| {
                    if items.len() == 1 {
                        fault.hint("a string is wanted here, not a list")
                    } else {
                        fault
                    }
                })
            }
            _ => Err(value.unexpected(&article(&Self::type_name()))),
        }
    }

    fn shown(&self) -> Shown {
        Shown::text(&self.text)
    }
}

/// Bytes, written in B9 as a string of characters below 256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Term for Bytes {
    fn type_name() -> String {
        Text::type_name()
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        let text = Text::read(value)?;
        let byte = |c: char| u8::try_from(u32::from(c) % 256).unwrap_or(0);
        Ok(Self(text.chars().map(byte).collect()))
    }

    fn shown(&self) -> Shown {
        let text: String = self.0.iter().map(|byte| char::from(*byte)).collect();
        Shown::text(&text)
    }
}

impl Term for i64 {
    fn type_name() -> String {
        "whole number".into()
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        let number = crate::number::Integer::read(value)?;
        number.to_string().parse().map_err(|_| {
            Fault::new(value.bare().at(), format!("the number {number} does not fit into 64 bits"))
        })
    }

    fn shown(&self) -> Shown {
        Shown::number(self.to_string())
    }
}

impl Term for crate::number::Integer {
    fn type_name() -> String {
        "whole number".into()
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        let Some(Kind::Number(negative, digits)) = value.single() else {
            return Err(value.unexpected("a whole number"));
        };
        let (digits, radix) = match digits.get(..2) {
            Some("0x" | "0X") => (&digits[2..], 16),
            Some("0o" | "0O") => (&digits[2..], 8),
            _ => (*digits, 10),
        };
        Self::parse(*negative, digits, radix)
            .ok_or_else(|| value.unexpected("a whole number without fraction and exponent"))
    }

    fn shown(&self) -> Shown {
        Shown::number(self.to_string())
    }
}

impl Term for f64 {
    fn type_name() -> String {
        "number".into()
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        let wrong = |what: &str| {
            Fault::new(value.bare().at(), format!("{what} cannot be written in Erlang"))
        };
        let (negative, digits) = match value.single() {
            Some(Kind::Number(negative, digits)) => (*negative, *digits),
            Some(Kind::Word(word @ ("NaN" | "Infinity"))) => return Err(wrong(word)),
            _ => return Err(value.unexpected("a number")),
        };
        let whole = || crate::number::Integer::read(value).ok()?.to_string().parse().ok();
        let magnitude = if digits.contains(['x', 'X', 'o', 'O']) {
            whole().map(f64::abs)
        } else {
            digits.parse().ok()
        };
        let number: f64 = magnitude.ok_or_else(|| value.unexpected("a number"))?;
        if !number.is_finite() {
            return Err(wrong("a number beyond 1.8e308"));
        }
        Ok(if negative { -number } else { number })
    }

    fn shown(&self) -> Shown {
        Shown::number(crate::number::show_float(*self))
    }
}

impl Term for char {
    fn type_name() -> String {
        "character like 'a'".into()
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        match value.single() {
            Some(Kind::Char(c)) => Ok(*c),
            _ => Err(value.unexpected(&article(&Self::type_name()))),
        }
    }

    fn shown(&self) -> Shown {
        Shown::char(*self)
    }
}

impl<T: Term> Term for Vec<T> {
    fn type_name() -> String {
        format!("list of {}", T::type_name())
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        // A loop uses less stack than a chain of iterators.
        let mut items = Self::new();
        for item in value.items(Self::type_name)? {
            items.push(T::read(item)?);
        }
        Ok(items)
    }

    fn shown(&self) -> Shown {
        Shown::List(self.iter().map(T::shown).collect())
    }
}

impl<A: Term, B: Term> Term for (A, B) {
    fn type_name() -> String {
        format!("pair ({}, {})", A::type_name(), B::type_name())
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        let (first, second) = value.pair(Self::type_name)?;
        Ok((A::read(first)?, B::read(second)?))
    }

    fn shown(&self) -> Shown {
        Shown::Tuple(vec![self.0.shown(), self.1.shown()])
    }
}

impl<T: Term> Term for Box<T> {
    fn type_name() -> String {
        T::type_name()
    }

    fn read(value: Value<'_>) -> Result<Self, Fault> {
        T::read(value).map(Self::new)
    }

    fn shown(&self) -> Shown {
        T::shown(self)
    }
}

/// Defines an enum, or a struct with one constructor, with B9's terms: parsing and printing are
/// generated from one list.
macro_rules! terms {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $type:ident = $name:literal {
            $( $(#[$variant_meta:meta])* $variant:ident = $constructor:literal
                $( ( $( $field:ident : $field_type:ty ),+ $(,)? ) )? ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $visibility enum $type {
            $( $(#[$variant_meta])* $variant $( ( $( $field_type ),+ ) )? ),+
        }

        impl $crate::haskell::Term for $type {
            fn type_name() -> String {
                $name.into()
            }

            fn read(value: $crate::haskell::Value<'_>) -> Result<Self, $crate::place::Fault> {
                const KNOWN: &[&str] = &[$( $constructor ),+];
                let application = &mut value.application($name, KNOWN)?;
                match application.name {
                    $( $constructor => (|| {
                        $( $( let $field = application.argument::<$field_type>()?; )+ )?
                        application.end()?;
                        Ok(Self::$variant $( ( $( $field ),+ ) )?)
                    })(), )+
                    _ => Err(application.unknown($name, KNOWN)),
                }
            }

            fn shown(&self) -> $crate::haskell::Shown {
                match self {
                    $( Self::$variant $( ( $( $field ),+ ) )? => $crate::haskell::Shown::Constructor(
                        $constructor,
                        vec![$( $( $crate::haskell::Term::shown($field) ),+ )?],
                    ), )+
                }
            }
        }
    };
    (
        $(#[$meta:meta])*
        pub struct $type:ident = $name:literal ( $constructor:literal ) {
            $( $(#[$field_meta:meta])* $field:ident : $field_type:ty ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub struct $type {
            $( $(#[$field_meta])* pub $field: $field_type ),+
        }

        impl $crate::haskell::Term for $type {
            fn type_name() -> String {
                $name.into()
            }

            fn read(value: $crate::haskell::Value<'_>) -> Result<Self, $crate::place::Fault> {
                let mut application = value.application($name, &[$constructor])?;
                if application.name != $constructor {
                    return Err(application.unknown($name, &[$constructor]));
                }
                $( let $field = application.argument::<$field_type>()?; )+
                application.end()?;
                Ok(Self { $( $field ),+ })
            }

            fn shown(&self) -> $crate::haskell::Shown {
                let Self { $( $field ),+ } = self;
                $crate::haskell::Shown::Constructor(
                    $constructor,
                    vec![$( $crate::haskell::Term::shown($field) ),+],
                )
            }
        }
    };
}
pub(crate) use terms;
