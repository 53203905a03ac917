//! The difference between the clocks of guest and host: which script changed a file is
//! found by times of both.

use session::Session;

use super::recorder::now_ms;
use crate::guest::tool;

/// Number of measurements. The first one includes the time to load the program.
const ANSWERS: usize = 3;

/// Milliseconds by which a guest's clock is ahead, by the quickest of several answers.
/// `None` when the guest does not answer.
pub(crate) async fn ahead_ms(session: &Session) -> Option<i64> {
    let mut best: Option<(u64, i64)> = None;
    for _ in 0..ANSWERS {
        let before = now_ms();
        let said = tool(session, &["date", "+%s%3N"]).output().await.ok()?;
        let after = now_ms();
        let guest = String::from_utf8(said.stdout).ok()?.trim().parse::<i64>().ok()?;
        let host = i64::try_from(before.midpoint(after)).unwrap_or(i64::MAX);
        let answer = (after.saturating_sub(before), guest.saturating_sub(host));
        best = Some(best.map_or(answer, |best| best.min(answer)));
    }
    best.map(|(_, ahead)| ahead)
}
