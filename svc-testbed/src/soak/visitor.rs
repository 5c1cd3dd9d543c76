//! One client process and the thread that drives it: new sockets of every kind, and sockets that are kept over changes. Judges
//! each answer at once and remembers its own past for the case that something is wrong.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    change::WEB_PORTS,
    judge::{
        Finding, Judgement, Kind, asks_for_resets, judge_affinity, judge_answer, judge_established, judge_kept,
        judge_new,
    },
    random::Random,
    scene::NODE,
    state::DNS_PORT,
    timeline::{Target, Timeline},
};
use crate::{Client, Family, Outcome, Sample, Tcp, Udp, client::Again};

const TCP_PATIENCE: Duration = Duration::from_secs(6);
/// A datagram that is not answered in this time is asked again before that means anything.
const UDP_PATIENCE: [Duration; 3] = [Duration::from_millis(800), Duration::from_secs(2), Duration::from_secs(4)];
/// The agent, the servers and all clients share the machine.
const PAUSE: Duration = Duration::from_millis(12);
const KEPT: usize = 12;
const REMEMBERED: usize = 25;

/// Who this client is, and how servers must see it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub name: String,
    /// Its own, by family.
    pub addresses: [IpAddr; 2],
    /// By servers that are not the node; `None` where it is not the same for all of them.
    pub seen_as: Option<[IpAddr; 2]>,
    /// Services can have its connections reset.
    pub can_be_reset: bool,
}

/// A socket that lives on.
struct Kept {
    name: String,
    target: Target,
    kind: Kind,
    /// Who answered last; nobody if the last exchange failed.
    last: Option<String>,
    since: Instant,
    /// Whether its Service asked for resets when it began.
    resets: Option<bool>,
}

/// How often something happened.
pub(super) type Counts = BTreeMap<String, u64>;

pub(super) struct Visitor<'a> {
    identity: Identity,
    client: Client,
    timeline: &'a Timeline,
    services: usize,
    random: Random,
    kept: Vec<Kept>,
    made: u64,
    /// Where the last new connection went, and when it was over.
    last: HashMap<Target, (String, Instant)>,
    past: VecDeque<String>,
    counts: Counts,
}

impl<'a> Visitor<'a> {
    pub fn new(identity: Identity, client: Client, timeline: &'a Timeline, services: usize, random: Random) -> Self {
        Self {
            identity,
            client,
            timeline,
            services,
            random,
            kept: Vec::new(),
            made: 0,
            last: HashMap::new(),
            past: VecDeque::new(),
            counts: Counts::new(),
        }
    }

    /// Until told to stop, or something is wrong.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Counts> {
        let mut turn = || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                self.step()?;
                thread::sleep(PAUSE * self.random.below(4) as u32);
            }
            Ok(())
        };
        let result = turn();
        stop.store(true, Ordering::Relaxed);
        let past = || self.past.iter().map(|line| format!("  {line}\n")).collect::<String>();
        result.with_context(|| format!("client {}, whose past is:\n{}", self.identity.name, past()))?;
        Ok(self.counts)
    }

    fn step(&mut self) -> Result<()> {
        let old = self.random.below(3) > 0 && !self.kept.is_empty();
        if old {
            let position = self.random.below(self.kept.len());
            let kept = self.kept.swap_remove(position);
            return self.again(kept);
        }
        let target = self.target();
        let kind = match (target.web, self.random.below(3)) {
            (true, _) => Kind::Tcp,
            (false, 0) => Kind::UdpUnconnected,
            (false, _) => Kind::Udp,
        };
        let keep = self.kept.len() < KEPT && self.random.one_in(2);
        self.new_socket(target, kind, keep)
    }

    fn target(&mut self) -> Target {
        let service = self.random.below(self.services);
        let family = Family::BOTH[self.random.below(2)];
        let web = self.random.one_in(2);
        let port = match web {
            false => DNS_PORT,
            true if self.random.one_in(8) => WEB_PORTS[self.random.below(WEB_PORTS.len())],
            true => self.timeline.web_port(service),
        };
        Target { service, family, web, port }
    }

    fn new_socket(&mut self, target: Target, kind: Kind, keep: bool) -> Result<()> {
        let to = SocketAddr::new(self.timeline.ip(target), target.port);
        self.made += 1;
        let name = format!("kept-{}", self.made);
        let start = Instant::now();
        let samples = match kind {
            Kind::Tcp => {
                let probe = Tcp::to(to).timeout(TCP_PATIENCE).body(3000).reply(3000);
                self.client.tcp(if keep { probe.hold(&name) } else { probe.count(3) })?
            }
            Kind::Udp | Kind::UdpUnconnected => {
                let probe = Udp::to(to).timeout(UDP_PATIENCE[0]).payload(64).reply(400);
                let probe = if kind == Kind::Udp { probe } else { probe.unconnected() };
                // Sockets that nobody answered are kept as well: they must work once somebody does.
                self.client.udp(if keep { probe.hold(&name).hold_failed() } else { probe.count(3) })?
            }
        };
        let end = Instant::now();
        for sample in &samples {
            self.remember("new", target, kind, start, end, sample);
            let views = self.timeline.views(target, start, end);
            let judged = judge_new(kind, sample, &views).and_then(|judgement| {
                self.judge_common(target, sample, to.ip())?;
                Ok(judgement)
            });
            match self.wrong(judged, &views)? {
                Judgement::Fine | Judgement::Ended => {}
                // A socket that is kept is asked again below; another one would only be a new one.
                Judgement::Unanswered if keep => {}
                Judgement::Unanswered => self.ask_anew(target, kind, to)?,
            }
        }
        self.check_affinity(target, &samples, start, end)?;
        // A connect() that is refused leaves no socket.
        let held =
            keep && if kind == Kind::Tcp { samples[0].outcome == Outcome::Ok } else { samples[0].local.is_some() };
        if held {
            let last = samples[0].backends.last().cloned().filter(|_| samples[0].outcome == Outcome::Ok);
            let views = self.timeline.views(target, start, end);
            let resets = if self.identity.can_be_reset { asks_for_resets(&views) } else { Some(false) };
            let kept = Kept { name, target, kind, last, since: end, resets };
            if samples[0].outcome == Outcome::Timeout {
                return self.again(kept);
            }
            self.kept.push(kept);
        }
        Ok(())
    }

    /// One datagram of a new socket was lost: is it the datagram or the Service?
    fn ask_anew(&mut self, target: Target, kind: Kind, to: SocketAddr) -> Result<()> {
        self.count("late");
        for patience in &UDP_PATIENCE[1..] {
            let probe = Udp::to(to).timeout(*patience).payload(64).reply(400);
            let start = Instant::now();
            let samples = self.client.udp(if kind == Kind::Udp { probe } else { probe.unconnected() })?;
            let end = Instant::now();
            self.remember("anew", target, kind, start, end, &samples[0]);
            let views = self.timeline.views(target, start, end);
            if self.wrong(judge_new(kind, &samples[0], &views), &views)? == Judgement::Fine {
                return Ok(());
            }
        }
        bail!("nobody answers new sockets ({target:?})")
    }

    fn again(&mut self, mut kept: Kept) -> Result<()> {
        let ip = self.timeline.ip(kept.target);
        for (attempt, patience) in UDP_PATIENCE.into_iter().enumerate() {
            let tcp = kept.kind == Kind::Tcp;
            let size = if tcp { 2000 } else { 64 };
            let start = Instant::now();
            let again = Again::on(&kept.name).timeout(if tcp { TCP_PATIENCE } else { patience }).size(size).reply(400);
            let samples = self.client.again(again)?;
            let end = Instant::now();
            let sample = samples.first().context("no sample of a kept socket")?;
            self.remember(&kept.name, kept.target, kept.kind, start, end, sample);
            // What its last answer told the socket may be older than this request: an error that waits, a move.
            let views = self.timeline.views(kept.target, kept.since, end);
            let judged = match kept.kind {
                Kind::Tcp => {
                    let present = self.timeline.views(kept.target, start, end);
                    let last = kept.last.as_deref().unwrap_or("nobody");
                    judge_established(last, kept.resets, sample, &views, &present)
                }
                kind => judge_kept(kind, kept.last.as_deref(), sample, &views),
            };
            let judged = judged.and_then(|judgement| {
                self.judge_common(kept.target, sample, ip)?;
                Ok(judgement)
            });
            let judgement = self.wrong(judged, &views)?;
            if judgement == Judgement::Ended {
                return self.client.close(&kept.name);
            }
            if kept.kind != Kind::Tcp {
                if sample.outcome == Outcome::Ok && kept.last.is_some() && kept.last.as_ref() != sample.backends.last()
                {
                    self.count("moved");
                }
                // An answer that did not come leaves the flow where it was.
                if sample.outcome == Outcome::Ok || judgement == Judgement::Fine {
                    kept.last = sample.backends.last().cloned().filter(|_| sample.outcome == Outcome::Ok);
                }
                kept.since = if judgement == Judgement::Fine { start } else { kept.since };
            }
            if judgement == Judgement::Fine {
                return self.keep_or_close(kept);
            }
            if attempt == 0 {
                self.count("late");
            }
        }
        bail!("{} is stuck ({:?}, last answered by {:?})", kept.name, kept.target, kept.last)
    }

    fn keep_or_close(&mut self, kept: Kept) -> Result<()> {
        if self.kept.len() + 1 >= KEPT && self.random.one_in(10) || self.random.one_in(60) {
            self.count("closed");
            return self.client.close(&kept.name);
        }
        self.kept.push(kept);
        Ok(())
    }

    fn judge_common(&self, target: Target, sample: &Sample, asked: IpAddr) -> Result<(), Finding> {
        let itself = sample.pod() == Some(self.identity.name.as_str());
        let seen_as = match sample.pod() {
            _ if itself => None,
            // Nobody is masqueraded who goes no further.
            Some(NODE) => Some(self.identity.addresses),
            _ => self.identity.seen_as,
        };
        judge_answer(sample, asked, seen_as.map(|[v4, v6]| if target.family == Family::V4 { v4 } else { v6 }))
    }

    fn check_affinity(&mut self, target: Target, samples: &[Sample], start: Instant, end: Instant) -> Result<()> {
        let first = samples.iter().find_map(|sample| sample.backends.first().cloned());
        if let Some((last, since)) = self.last.remove(&target) {
            let views = self.timeline.views(target, since.min(start), end);
            for sample in samples.iter().filter(|sample| sample.outcome == Outcome::Ok) {
                self.wrong(judge_affinity(&last, sample, &views).map(|()| Judgement::Fine), &views)?;
            }
        }
        let same =
            samples.iter().all(|sample| sample.outcome == Outcome::Ok && sample.backends.first() == first.as_ref());
        if let (Some(first), true) = (first, same) {
            self.last.insert(target, (first, start));
        }
        Ok(())
    }

    fn wrong(&self, judged: Result<Judgement, Finding>, views: &[Option<super::state::View>]) -> Result<Judgement> {
        match judged {
            Ok(judgement) => Ok(judgement),
            Err(finding) => bail!("{finding}\nviews at that time, newest first: {views:#?}"),
        }
    }

    fn remember(&mut self, what: &str, target: Target, kind: Kind, start: Instant, end: Instant, sample: &Sample) {
        self.count(&format!("{kind:?} {:?}", sample.outcome));
        let line = format!(
            "{:8.3}-{:.3} {what} {kind:?} soak-{} {:?} port {}: {:?} {:?}",
            self.timeline.seconds(start),
            self.timeline.seconds(end),
            target.service,
            target.family,
            target.port,
            sample.outcome,
            sample.backends
        );
        self.past.push_back(line);
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
    }

    fn count(&mut self, what: &str) {
        match self.counts.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(what.to_owned(), 1)),
        }
    }
}
