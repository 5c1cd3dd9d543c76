//! Whether what a client experienced was possible. Pure: samples and views in, a sentence out when it was not.

use std::{collections::BTreeSet, net::IpAddr};

use super::state::{Verdict, View};
use crate::{Outcome, Sample};

/// Why something was wrong.
pub(super) type Finding = String;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Fine,
    /// An answer was owed and did not come: wrong if it does not come when asked again either.
    Unanswered,
    /// The connection is over, as its Service wants it.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
    /// A UDP socket that is not connected: it does not hear of refusals.
    UdpUnconnected,
}

/// A socket that was just made.
pub(super) fn judge_new(kind: Kind, sample: &Sample, views: &[Option<View>]) -> Result<Judgement, Finding> {
    let slots = union(views, |view| &view.slots);
    match sample.outcome {
        Outcome::Ok => match sample.backends.iter().find(|backend| !slots.contains(*backend)) {
            None => Ok(Judgement::Fine),
            Some(backend) => Err(format!("answered by {backend}, allowed are {slots:?}")),
        },
        _ => judge_silence(kind, sample, views),
    }
}

/// A UDP socket that has talked to `last` (nobody if its last exchange failed) when the views began.
pub(super) fn judge_kept(
    kind: Kind,
    last: Option<&str>,
    sample: &Sample,
    views: &[Option<View>],
) -> Result<Judgement, Finding> {
    if sample.outcome != Outcome::Ok {
        return judge_silence(kind, sample, views);
    }
    let slots = union(views, |view| &view.slots);
    let serving = union(views, |view| &view.serving);
    let Some(backend) = sample.backends.last() else { return Err("an answer from nobody".to_owned()) };
    let stays = last == Some(backend);
    let allowed = slots.contains(backend) || stays && serving.contains(backend);
    if !allowed {
        return Err(format!("answered by {backend}, allowed are {slots:?}, and {last:?} if in {serving:?}"));
    }
    let always_served =
        |last: &str| views.iter().all(|view| view.as_ref().is_some_and(|view| view.serving.contains(last)));
    match last {
        Some(last) if !stays && always_served(last) => {
            Err(format!("moved from {last}, which served all the time, to {backend}"))
        }
        _ => Ok(Judgement::Fine),
    }
}

/// Whether a connection that is made now asks for resets; `None`: both is possible.
pub(super) fn asks_for_resets(views: &[Option<View>]) -> Option<bool> {
    let wish = |view: &Option<View>| view.as_ref().map(|view| view.resets);
    let first = views.first().and_then(wish);
    first.filter(|_| views.iter().all(|view| wish(view) == first))
}

/// An established TCP connection: nothing may happen to it, unless it asks for resets and its endpoint was gone, at any time
/// since it began (`past`). It must be reset if the endpoint is gone now (`present`).
pub(super) fn judge_established(
    last: &str,
    resets: Option<bool>,
    sample: &Sample,
    past: &[Option<View>],
    present: &[Option<View>],
) -> Result<Judgement, Finding> {
    let gone = |view: &Option<View>| view.as_ref().is_none_or(|view| !view.knows(last));
    let must_end = resets == Some(true) && present.iter().all(gone);
    let may_end = resets != Some(false) && past.iter().any(gone);
    match (sample.outcome, sample.backends.as_slice()) {
        (Outcome::Ok, [backend]) if backend == last && !must_end => Ok(Judgement::Fine),
        (Outcome::Reset | Outcome::Closed, _) if may_end => Ok(Judgement::Ended),
        (outcome, backends) => {
            let rule = if must_end { ", which is gone and must be reset" } else { "" };
            Err(format!("established with {last}{rule}: {outcome:?} {backends:?} {:?}", sample.error))
        }
    }
}

/// New connections of one client to a Service with ClientIP affinity, `last` being where the one before went.
pub(super) fn judge_affinity(last: &str, sample: &Sample, views: &[Option<View>]) -> Result<(), Finding> {
    let sticks = |view: &Option<View>| {
        view.as_ref().is_some_and(|view| view.affinity && view.verdict == Verdict::Forward && view.slots.contains(last))
    };
    match sample.backends.first() {
        Some(backend) if backend != last && views.iter().all(sticks) => {
            Err(format!("affinity: to {backend} instead of {last}"))
        }
        _ => Ok(()),
    }
}

/// What holds for every answer: it is whole, comes from the address that was asked, and the server saw the right client.
pub(super) fn judge_answer(sample: &Sample, asked: IpAddr, client: Option<IpAddr>) -> Result<(), Finding> {
    if sample.outcome != Outcome::Ok {
        return Ok(());
    }
    if !sample.intact {
        return Err("the answer was damaged".to_owned());
    }
    if sample.reply_from.map(|from| from.ip()) != Some(asked) {
        return Err(format!("asked {asked}, answered from {:?}", sample.reply_from));
    }
    match (client, sample.client_seen.map(|seen| seen.ip())) {
        (Some(client), seen) if seen != Some(client) => Err(format!("the server saw {seen:?} instead of {client}")),
        _ => Ok(()),
    }
}

fn judge_silence(kind: Kind, sample: &Sample, views: &[Option<View>]) -> Result<Judgement, Finding> {
    let absent = views.iter().any(Option::is_none);
    let verdict = |wanted| views.iter().flatten().any(|view| view.verdict == wanted);
    let possible = match sample.outcome {
        Outcome::Refused => verdict(Verdict::Reject),
        // Its endpoint went between the first packet and the next.
        Outcome::Reset | Outcome::Closed => {
            kind == Kind::Tcp && views.len() > 1 && views.iter().flatten().any(|view| view.resets)
        }
        Outcome::Timeout => verdict(Verdict::Drop) || (kind == Kind::UdpUnconnected && verdict(Verdict::Reject)),
        _ => false,
    };
    if possible || absent {
        Ok(Judgement::Fine)
    } else if sample.outcome == Outcome::Timeout && kind != Kind::Tcp {
        Ok(Judgement::Unanswered)
    } else {
        Err(format!("{:?} ({:?})", sample.outcome, sample.error))
    }
}

fn union(views: &[Option<View>], part: impl Fn(&View) -> &BTreeSet<String>) -> BTreeSet<String> {
    views.iter().flatten().flat_map(|view| part(view).iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(verdict: Verdict, slots: &[&str], serving: &[&str]) -> Option<View> {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Some(View { verdict, slots: set(slots), serving: set(serving), affinity: true, resets: false })
    }

    fn sample(outcome: Outcome, backends: &[&str]) -> Sample {
        let backends = backends.iter().map(|&name| name.to_owned()).collect();
        Sample { outcome, backends, ..Sample::new() }
    }

    #[test]
    fn a_new_socket_may_meet_the_old_state_or_the_new_one_and_no_third() {
        let views = [view(Verdict::Forward, &["a"], &["a"]), view(Verdict::Reject, &[], &[])];
        let judge = |kind, sample: Sample| judge_new(kind, &sample, &views);
        assert_eq!(judge(Kind::Tcp, sample(Outcome::Ok, &["a"])), Ok(Judgement::Fine));
        assert!(judge(Kind::Tcp, sample(Outcome::Ok, &["b"])).is_err());
        assert_eq!(judge(Kind::Tcp, sample(Outcome::Refused, &[])), Ok(Judgement::Fine));
        assert!(judge(Kind::Tcp, sample(Outcome::Timeout, &[])).is_err());
        assert_eq!(judge(Kind::Udp, sample(Outcome::Timeout, &[])), Ok(Judgement::Unanswered));
        assert_eq!(judge(Kind::UdpUnconnected, sample(Outcome::Timeout, &[])), Ok(Judgement::Fine));
        let refused = judge_new(Kind::Tcp, &sample(Outcome::Refused, &[]), &views[..1]);
        assert!(refused.is_err());
        assert_eq!(judge_new(Kind::Tcp, &sample(Outcome::HostUnreachable, &[]), &[None]), Ok(Judgement::Fine));
    }

    #[test]
    fn a_kept_socket_stays_while_its_endpoint_serves_and_moves_when_it_does_not() {
        let draining = [view(Verdict::Forward, &["b"], &["a", "b"])];
        let judge = |last, backend, views: &[Option<View>]| {
            judge_kept(Kind::Udp, last, &sample(Outcome::Ok, &[backend]), views).is_ok()
        };
        assert!(judge(Some("a"), "a", &draining));
        assert!(!judge(Some("a"), "b", &draining), "it served");
        assert!(!judge(None, "a", &draining), "no new ones there");
        let gone = [view(Verdict::Forward, &["b"], &["b"])];
        assert!(judge(Some("a"), "b", &gone));
        assert!(!judge(Some("a"), "a", &gone));
        assert!(judge(Some("a"), "b", &[gone[0].clone(), draining[0].clone()]));
    }

    #[test]
    fn affinity_binds_only_while_it_could_be_kept() {
        let views = [view(Verdict::Forward, &["a", "b"], &[])];
        assert!(judge_affinity("a", &sample(Outcome::Ok, &["b"]), &views).is_err());
        assert!(judge_affinity("a", &sample(Outcome::Ok, &["a"]), &views).is_ok());
        assert!(judge_affinity("c", &sample(Outcome::Ok, &["b"]), &views).is_ok());
        assert!(judge_affinity("a", &sample(Outcome::Ok, &["b"]), &[views[0].clone(), None]).is_ok());
    }

    #[test]
    fn a_connection_ends_only_where_it_asks_for_that_and_then_must() {
        let there = [view(Verdict::Forward, &["a"], &["a"])];
        let gone = [view(Verdict::Forward, &["b"], &["b"])];
        let between = [gone[0].clone(), there[0].clone()];
        let judge = |resets, outcome, past: &[Option<View>], present: &[Option<View>]| {
            judge_established("a", resets, &sample(outcome, &["a"]), past, present).ok()
        };
        let (fine, ended) = (Some(Judgement::Fine), Some(Judgement::Ended));
        assert_eq!(judge(Some(false), Outcome::Ok, &between, &gone), fine);
        assert_eq!(judge(Some(false), Outcome::Reset, &between, &gone), None);
        assert_eq!(judge(Some(true), Outcome::Ok, &between, &gone), None);
        assert_eq!(judge(Some(true), Outcome::Reset, &between, &gone), ended);
        assert_eq!(judge(Some(true), Outcome::Reset, &[None], &[None]), ended);
        assert_eq!(judge(Some(true), Outcome::Reset, &there, &there), None);
        // It was gone for a while, or goes just now.
        assert_eq!(judge(Some(true), Outcome::Reset, &between, &there), ended);
        assert_eq!(judge(Some(true), Outcome::Ok, &between, &there), fine);
        assert_eq!(judge(Some(true), Outcome::Ok, &between, &between), fine);
        for outcome in [Outcome::Ok, Outcome::Reset] {
            assert!(judge(None, outcome, &between, &gone).is_some());
        }
        let asking = |resets| there[0].clone().map(|view| View { resets, ..view });
        assert_eq!(asks_for_resets(&[asking(true)]), Some(true));
        assert_eq!(asks_for_resets(&[asking(true), asking(false)]), None);
        assert_eq!(asks_for_resets(&[asking(false), None]), None);
    }
}
