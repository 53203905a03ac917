//! Usage errors, in the name of vbuild or of the program whose name it was started under.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{getopt::GetoptError, personality::Personality, values::InvalidValue};
use crate::error::CommandError;

/// The hint where to find more; [`in_name_of`] replaces the program's name in it.
const HELP_HINT: &str = "Try ‘vbuild --help’ or consult vbuild(1) for more information.";

/// Creates a usage error with a hint where to find more.
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

/// Replaces the program's name in the hints of an error by the one that vbuild was started under.
pub(crate) fn in_name_of(personality: Personality, error: CommandError) -> CommandError {
    let name = personality.name();
    let hint = format!("Try ‘{name} --help’ or consult vbuild(1) for more information.");
    let hints = error.hints.into_iter().map(|other| match other.as_str() {
        HELP_HINT => hint.clone(),
        _ => other,
    });
    CommandError { hints: hints.collect(), ..error }
}

/// Converts an error of clap. Help and the version are errors for clap, but returned as text here.
/// All other errors become usage errors in vbuild's style, and name an option as the user spelled
/// it, which `spelled` finds.
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

/// Returns the long name of the option that an error is about.
fn option_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let name = argument.strip_prefix("--")?;
    Some(name.split([' ', '=', '[']).next().unwrap_or_default().to_owned())
}
