//! Whom to dial, and when: the configured nodes, again after every loss, later each time in vain.

use std::collections::BTreeMap;
use std::time::Duration;

use corelane_shard::clock::Instant;
use uuid::Uuid;

use super::link::LinkId;
use crate::config::NodeUrl;

#[derive(Debug)]
struct Target {
    url: NodeUrl,
    /// Of whoever answered last.
    instance: Option<Uuid>,
    link: Option<LinkId>,
    due: Instant,
    pause: Duration,
    /// It is this node itself.
    own: bool,
}

#[derive(Debug)]
pub(super) struct Targets {
    by_url: BTreeMap<String, Target>,
    own: NodeUrl,
    random: fastrand::Rng,
}

impl Targets {
    /// All of them are due at once; `configured` may name this node, too.
    pub(super) fn new(own: NodeUrl, configured: &[NodeUrl], random: fastrand::Rng) -> Self {
        let mut this = Self { by_url: BTreeMap::new(), own, random };
        for url in configured {
            this.add(url.clone());
        }
        this
    }

    fn add(&mut self, url: NodeUrl) {
        let own = url == self.own;
        let target =
            Target { instance: None, link: None, due: Instant(0), pause: PAUSE_MIN, own, url };
        self.by_url.insert(target.url.to_string(), target);
    }

    /// The next node to be dialled; `link` is to be its link. `linked` says which instances have one
    /// already.
    pub(super) fn dial(
        &mut self,
        now: Instant,
        linked: impl Fn(Uuid) -> bool,
        link: LinkId,
    ) -> Option<NodeUrl> {
        let target = self.by_url.values_mut().find(|it| it.is_wanted(&linked) && it.due <= now)?;
        target.link = Some(link);
        Some(target.url.clone())
    }

    /// When the next node is to be dialled.
    pub(super) fn due(&self, linked: impl Fn(Uuid) -> bool) -> Option<Instant> {
        let wanted = self.by_url.values().filter(|target| target.is_wanted(&linked));
        wanted.map(|target| target.due).min()
    }

    /// Who answers there.
    pub(super) fn is_of(&mut self, link: LinkId, instance: Uuid, own: bool) {
        if let Some(target) = self.of(link) {
            target.instance = Some(instance);
            target.own = own;
        }
    }

    /// There is a link, whoever had dialled: the next loss is the first again.
    pub(super) fn opened(&mut self, link: LinkId, instance: Option<Uuid>) {
        for target in self.by_url.values_mut() {
            let known = instance.is_some() && target.instance == instance;
            if known || target.link == Some(link) {
                target.pause = PAUSE_MIN;
            }
        }
    }

    /// The link is over, whoever had dialled; its node is dialled after a pause.
    pub(super) fn ended(&mut self, link: LinkId, instance: Option<Uuid>, now: Instant) {
        let Self { by_url, random, .. } = self;
        for target in by_url.values_mut() {
            let dialled = target.link == Some(link);
            if dialled {
                target.link = None;
            }
            if dialled || (instance.is_some() && target.instance == instance) {
                let pause = target.pause.as_nanos() as u64;
                target.due = now + Duration::from_nanos(random.u64(pause / 2..=pause));
                if dialled {
                    target.pause = (2 * target.pause).min(PAUSE_MAX);
                }
            }
        }
    }

    fn of(&mut self, link: LinkId) -> Option<&mut Target> {
        self.by_url.values_mut().find(|target| target.link == Some(link))
    }
}

impl Target {
    fn is_wanted(&self, linked: impl Fn(Uuid) -> bool) -> bool {
        !self.own && self.link.is_none() && !self.instance.is_some_and(linked)
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn url(port: u16) -> NodeUrl {
        NodeUrl::parse(&format!("ws://127.0.0.1:{port}")).unwrap()
    }

    fn targets(configured: &[u16]) -> Targets {
        let urls: Vec<_> = configured.iter().map(|port| url(*port)).collect();
        Targets::new(url(1), &urls, fastrand::Rng::with_seed(1))
    }

    fn nobody(_: Uuid) -> bool {
        false
    }

    #[test]
    fn every_node_but_oneself_is_dialled_once() {
        let mut targets = targets(&[1, 2, 3]);
        let now = Instant(5);
        assert_eq!(targets.dial(now, nobody, LinkId(1)), Some(url(2)));
        assert_eq!(targets.dial(now, nobody, LinkId(2)), Some(url(3)));
        assert_eq!(targets.dial(now, nobody, LinkId(3)), None);
        assert_eq!(targets.due(nobody), None);
    }

    #[test]
    fn a_node_that_is_lost_is_dialled_again_later_each_time() {
        let mut targets = targets(&[2]);
        let mut now = Instant(0);
        let mut pauses = Vec::new();
        for attempt in 0..12 {
            assert!(targets.dial(now, nobody, LinkId(attempt)).is_some(), "{attempt}");
            targets.ended(LinkId(attempt), None, now);
            let due = targets.due(nobody).expect("again");
            assert_eq!(targets.dial(now, nobody, LinkId(99)), None, "not at once");
            pauses.push(due - now);
            now = due;
        }
        assert!(pauses[0] >= PAUSE_MIN / 2 && pauses[0] <= PAUSE_MIN);
        assert!(pauses[11] >= PAUSE_MAX / 2 && pauses[11] <= PAUSE_MAX);
        // One that came to something begins anew.
        assert!(targets.dial(now, nobody, LinkId(50)).is_some());
        targets.opened(LinkId(50), None);
        targets.ended(LinkId(50), None, now);
        assert!(targets.due(nobody).unwrap() - now <= PAUSE_MIN);
    }

    #[test]
    fn a_node_that_has_dialled_is_not_dialled_until_its_link_is_lost() {
        let mut targets = targets(&[2]);
        let there = Uuid::from_u128(2);
        let now = Instant(0);
        targets.dial(now, nobody, LinkId(1)).unwrap();
        targets.is_of(LinkId(1), there, false);
        targets.ended(LinkId(1), None, now);
        let linked = |instance| instance == there;
        assert_eq!(targets.due(linked), None);
        targets.ended(LinkId(7), Some(there), now);
        assert!(targets.due(nobody).unwrap() > now);
    }

    #[test]
    fn a_node_that_turns_out_to_be_oneself_is_left_alone() {
        let mut targets = targets(&[2]);
        targets.dial(Instant(0), nobody, LinkId(1)).unwrap();
        targets.is_of(LinkId(1), Uuid::from_u128(1), true);
        targets.ended(LinkId(1), None, Instant(0));
        assert_eq!(targets.due(nobody), None);
    }
}
