//! Whom to dial, and when: the configured nodes and those that are in the registry, again after every
//! loss, later each time in vain.

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
    configured: bool,
    /// It was in the registry when that was last looked at.
    found: bool,
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
            this.at(url, Instant(0)).configured = true;
        }
        this
    }

    /// Who is there, and is due `now` if it was not known before.
    fn at(&mut self, url: &NodeUrl, now: Instant) -> &mut Target {
        let own = *url == self.own;
        self.by_url.entry(url.to_string()).or_insert_with(|| Target {
            url: url.clone(),
            instance: None,
            link: None,
            due: now,
            pause: PAUSE_MIN,
            own,
            configured: false,
            found: false,
        })
    }

    /// What the registry says, the newest first: of two nodes at one place the first counts.
    pub(super) fn found<'a>(
        &mut self,
        nodes: impl IntoIterator<Item = (Uuid, &'a NodeUrl)>,
        now: Instant,
    ) {
        self.by_url.values_mut().for_each(|target| target.found = false);
        for (instance, url) in nodes {
            let target = self.at(url, now);
            if !target.found {
                target.found = true;
                target.instance = Some(instance);
            }
        }
        self.by_url.retain(|_, target| target.is_named() || target.link.is_some());
    }

    /// How many the registry names.
    pub(super) fn found_now(&self) -> usize {
        self.by_url.values().filter(|target| target.found).count()
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

    /// Who is expected to answer there.
    pub(super) fn instance_of(&self, link: LinkId) -> Option<Uuid> {
        self.by_url.values().find(|target| target.link == Some(link))?.instance
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

    /// The link is over, whoever had dialled; its node is dialled after a pause. Says whether it is
    /// dialled for the registry alone, which may have changed.
    pub(super) fn ended(&mut self, link: LinkId, instance: Option<Uuid>, now: Instant) -> bool {
        let Self { by_url, random, .. } = self;
        let mut found = false;
        for target in by_url.values_mut() {
            let dialled = target.link == Some(link);
            if dialled {
                target.link = None;
            }
            if dialled || (instance.is_some() && target.instance == instance) {
                let pause = target.pause.as_nanos() as u64;
                found |= target.found && !target.configured;
                target.due = now + Duration::from_nanos(random.u64(pause / 2..=pause));
                if dialled {
                    target.pause = (2 * target.pause).min(PAUSE_MAX);
                }
            }
        }
        by_url.retain(|_, target| target.is_named() || target.link.is_some());
        found
    }

    fn of(&mut self, link: LinkId) -> Option<&mut Target> {
        self.by_url.values_mut().find(|target| target.link == Some(link))
    }
}

impl Target {
    fn is_wanted(&self, linked: impl Fn(Uuid) -> bool) -> bool {
        self.is_named() && !self.own && self.link.is_none() && !self.instance.is_some_and(linked)
    }

    /// The configuration or the registry says that there is somebody.
    fn is_named(&self) -> bool {
        self.configured || self.found
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
    fn a_node_of_the_registry_is_dialled_while_it_is_there() {
        let mut targets = targets(&[2]);
        let now = Instant(7);
        let [b, c, d] = [2, 3, 4].map(|id| (Uuid::from_u128(id.into()), url(id)));
        let said = |nodes: &[&(Uuid, NodeUrl)]| -> Vec<(Uuid, NodeUrl)> {
            nodes.iter().map(|&node| node.clone()).collect()
        };
        let tell = |targets: &mut Targets, nodes: &[&(Uuid, NodeUrl)]| {
            let nodes = said(nodes);
            targets.found(nodes.iter().map(|(instance, url)| (*instance, url)), now);
        };
        tell(&mut targets, &[&b, &c, &d]);
        assert_eq!(targets.found_now(), 3);
        // It has a link already: it has dialled.
        let linked = |instance| instance == d.0;
        assert_eq!(targets.dial(now, linked, LinkId(1)), Some(url(2)));
        assert_eq!(targets.dial(now, linked, LinkId(2)), Some(url(3)));
        assert_eq!(targets.dial(now, linked, LinkId(3)), None);
        tell(&mut targets, &[]);
        assert!(!targets.ended(LinkId(1), Some(b.0), now), "it is configured");
        assert!(!targets.ended(LinkId(2), Some(c.0), now), "it is gone already");
        assert_eq!(targets.by_url.len(), 1);
        assert!(targets.due(nobody).is_some(), "the configured one is dialled again");
        tell(&mut targets, &[&c]);
        assert_eq!(targets.dial(now, nobody, LinkId(4)), Some(url(3)));
        assert!(targets.ended(LinkId(4), Some(c.0), now), "it may have gone");
    }

    #[test]
    fn of_two_nodes_at_one_place_the_newer_counts() {
        let mut targets = targets(&[]);
        let [older, newer] = [5, 6].map(Uuid::from_u128);
        let place = url(2);
        targets.found([(newer, &place), (older, &place)], Instant(0));
        assert_eq!(targets.due(|instance| instance == newer), None);
        assert!(targets.due(|instance| instance == older).is_some());
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
