//! Errors of the command line in the words of vbuild, or of the program whose name it has.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{getopt::GetoptError, personality::Personality, values::InvalidValue};
use crate::error::CommandError;

/// Where to find more; [`in_name_of`] puts in the program's own name.
const HELP_HINT: &str = "Try ‘vbuild --help’ or consult vbuild(1) for more information.";

/// A usage error with a hint where to find more.
pub(crate) fn usage(message: impl Into<String>) -> CommandError {
    CommandError::usage(message).hint(HELP_HINT)
}

impl From<GetoptError> for CommandError {
    fn from(error: GetoptError) -> Self {
        let meant = match &error {
            GetoptError::Unrecognized { meant, .. } => meant.as_deref(),
            _ => None,
        };
        let hint = meant.map(|option| format!("did you mean `{option}`?"));
        usage(error.to_string()).maybe_hint(hint)
    }
}

/// The error with the name under which the program was started.
pub(crate) fn in_name_of(personality: Personality, error: CommandError) -> CommandError {
    let name = personality.name();
    let hint = format!("Try ‘{name} --help’ or consult vbuild(1) for more information.");
    let hints = error.hints.into_iter().map(|other| match other.as_str() {
        HELP_HINT => hint.clone(),
        _ => other,
    });
    CommandError { hints: hints.collect(), ..error }
}

/// Help and the version are no errors; everything else is put into our words. An option is
/// named as the user has spelled it.
pub(super) fn clap_error(
    error: &clap::Error,
    spelled: &dyn Fn(&str) -> Option<String>,
) -> Result<String, CommandError> {
    let option = option_of(error);
    let name_as_typed =
        |text: &str| match option.as_deref().and_then(|long| Some((long, spelled(long)?))) {
            Some((long, typed)) => text.replacen(&format!("--{long}"), &typed, 1),
            None => text.to_owned(),
        };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(error.render().to_string()),
        ErrorKind::ValueValidation if error.source().is_some_and(|s| s.is::<InvalidValue>()) => {
            let text = error.source().map(ToString::to_string).unwrap_or_default();
            let named = |long: &String| text.contains(&format!("--{long}"));
            Err(usage(name_as_typed(&match option.as_ref().filter(|long| !named(long)) {
                Some(long) => format!("--{long}: {text}"),
                None => text,
            })))
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let mut paragraphs = text.split("\n\n");
            let complaint = paragraphs.next().unwrap_or_default().trim_end();
            let mut complaint = usage(name_as_typed(complaint));
            for tip in paragraphs.filter_map(|p| p.trim().strip_prefix("tip: ")) {
                complaint = complaint.hint(tip.trim_end());
            }
            Err(complaint)
        }
    }
}

/// The long name of the option that an error is about.
fn option_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let name = argument.strip_prefix("--")?;
    Some(name.split([' ', '=', '[']).next().unwrap_or_default().to_owned())
}
