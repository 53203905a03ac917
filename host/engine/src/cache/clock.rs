//! The difference between the clocks of guest and host. It is needed to find the script that
//! changed a file: the guest's clock gives the times of files, the host's clock those of scripts.

use session::Session;

use super::recorder::now_ms;
use crate::guest::tool;

/// Number of measurements. The first one includes the time to load the program.
const ANSWERS: usize = 3;

/// Measures by how many milliseconds the guest's clock is ahead of the host's. The quickest of
/// several answers counts. `None` if the guest does not answer.
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
