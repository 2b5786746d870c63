//! What must hold in the simulation, after each event and at any time.

use std::collections::HashSet;
use std::sync::Arc;

use homing::affinity::ring::Ring;
use homing::affinity::{AdminState, Health, Member};
use homing::control::{Effects, Event, Transition};
use homing::model::snapshot::{Observation, Report, Snapshot};
use homing::model::{Probe, Upstream};

use super::{FAIL, Key, Seen, Sim, member};

impl Sim {
    /// Checks that health changes only by the rules.
    pub(super) fn check_transitions(
        &mut self,
        event: &Event,
        effects: &Effects,
        before: &Snapshot,
        after: &Snapshot,
        seen: &mut Seen,
    ) {
        seen.spared += u32::try_from(effects.log.iter().filter(|t| t.from == t.to).count()).unwrap();
        for upstream in &after.upstreams {
            let rules = &upstream.config;
            let Some(old) = before.upstreams.iter().find(|u| u.config.name == rules.name) else { continue };
            let some_eligible = |members: &[Member]| members.iter().any(Member::eligible_for_new);
            if matches!(event, Event::Passive(_)) && some_eligible(old.cluster.members()) {
                assert!(
                    some_eligible(upstream.cluster.members()),
                    "requests took the last eligible backend down"
                );
            }
            for new in upstream.cluster.members() {
                let Some(old) = old.cluster.members().iter().find(|m| m.id == new.id) else { continue };
                let key = (Arc::clone(&rules.name), new.id.clone());
                let known = self.known.get_mut(&key).unwrap();
                let logged = effects.log.iter().any(|t| {
                    t.upstream == rules.name
                        && t.backend.as_ref() == Some(&new.id)
                        && (t.from, t.to) == (old.health.as_str(), new.health.as_str())
                });
                let in_maintenance = old.admin == AdminState::Maint && new.admin == AdminState::Maint;
                assert!(
                    !in_maintenance || old.health == new.health,
                    "the health of a backend in maintenance changed"
                );
                match (old.health, new.health) {
                    (Health::Up, Health::Down) => {
                        assert!(logged, "a change of health was not logged");
                        seen.downs += 1;
                        match event {
                            Event::Probe { slot, result, .. } => {
                                assert!(*slot == new.slot && *result == FAIL, "{event:?}");
                                assert!(known.fails >= rules.health_check.as_ref().unwrap().fall);
                                known.hung = None;
                            }
                            Event::Passive(Report { slot, observation, .. }) => {
                                seen.hangs += 1;
                                assert_eq!(*slot, new.slot);
                                assert!(matches!(observation, Observation::Failed(_)), "{observation:?}");
                                self.check_that_it_hangs(&key, rules);
                                let known = self.known.get_mut(&key).unwrap();
                                known.hung = Some((self.now, rules.passive.as_ref().unwrap().penalty));
                            }
                            _ => panic!("{event:?} took a backend down"),
                        }
                        self.known.get_mut(&key).unwrap().turned();
                    }
                    (Health::Down, Health::Up) => {
                        assert!(logged, "a change of health was not logged");
                        seen.ups += 1;
                        if let Some(check) = &rules.health_check {
                            assert!(known.passes >= check.rise, "{} of {} passes", known.passes, check.rise);
                        }
                        // Backends that came up in the same event do not count.
                        let alone = !upstream.cluster.members().iter().any(|other| {
                            other.eligible_for_new()
                                && member(before, &rules.name, other.slot)
                                    .is_some_and(|(_, m)| m.health == Health::Up && other.id != new.id)
                        });
                        if let Some((at, penalty)) = known.hung {
                            assert!(
                                alone || self.now >= at + penalty,
                                "it came up before its penalty was over"
                            );
                        }
                        known.trial_until = rules.passive.as_ref().map(|rule| self.now + rule.window);
                        known.hung = None;
                        known.turned();
                    }
                    (Health::Up, Health::Up) | (Health::Down, Health::Down) => {
                        // While a backend stays up, its active points only grow.
                        if old.eligible_for_existing() && old.weight == new.weight {
                            let same = Arc::ptr_eq(upstream.cluster.ring(), ring_of(before, &rules.name));
                            assert!(!same || new.active_points >= old.active_points, "active points shrank");
                        }
                    }
                }
                self.check_shun(event, effects, rules, (old, new), seen);
                seen.ramps += u32::from(new.active_points != old.active_points);
            }
        }
    }

    /// Checks that requests may take this backend down: no request of one client moves a session of
    /// another while its backend accepts connections and passes its checks.
    fn check_that_it_hangs(&self, key: &Key, rules: &Upstream) {
        let (known, rule) = (&self.known[key], rules.passive.as_ref().unwrap());
        if let Some(check) = &rules.health_check {
            assert!(matches!(check.probe, Probe::Tcp), "requests overruled a check of the application");
            assert!(known.failed_clients.len() > 1, "one client took a backend from the others");
        }
        assert!(known.failed_clients.len() >= usize::try_from(rule.max_fails).unwrap());
        let silent_since = known.silent_since.expect("somebody failed");
        assert!(self.now >= silent_since + rule.window, "it may have answered within the window");
    }

    /// Checks that a backend is shunned, and no longer shunned, only by the rules.
    fn check_shun(
        &mut self,
        event: &Event,
        effects: &Effects,
        rules: &Upstream,
        (old, new): (&Member, &Member),
        seen: &mut Seen,
    ) {
        let known = self.known.get_mut(&(Arc::clone(&rules.name), new.id.clone())).unwrap();
        let logged = |from: &str, to: &str| {
            let of_new = |t: &&Transition| t.upstream == rules.name && t.backend.as_ref() == Some(&new.id);
            effects.log.iter().filter(of_new).any(|t| (t.from, t.to) == (from, to))
        };
        match (old.shunned, new.shunned) {
            (false, true) => {
                seen.shuns += 1;
                assert!(logged("up", "shunned"));
                let Event::Passive(Report { slot, observation, .. }) = event else {
                    panic!("{event:?} shunned a backend")
                };
                assert_eq!(*slot, new.slot);
                let rule = rules.passive.as_ref().unwrap();
                match observation {
                    Observation::Failed(_) => {
                        let on_trial = known.trial_until.is_some_and(|until| self.now < until);
                        let needed = if on_trial { 1 } else { usize::try_from(rule.max_fails).unwrap() };
                        assert!(known.failed_clients.len() >= needed);
                    }
                    Observation::ServerError(_) => {
                        let recent =
                            known.server_errors.iter().filter(|(at, _)| self.now < *at + rule.window);
                        let clients: HashSet<_> = recent.map(|(_, client)| client).collect();
                        assert!(clients.len() >= usize::try_from(rule.max_5xx.unwrap()).unwrap());
                    }
                    Observation::Recovered => panic!("a success shunned a backend"),
                }
                (known.shunned, known.passes) = (Some((self.now, rule.penalty)), 0);
            }
            (true, false) if new.health == Health::Up => {
                assert!(logged("shunned", "up"));
                let (at, least) = known.shunned.take().expect("it was shunned");
                let risen = rules.health_check.as_ref().is_some_and(|check| known.passes >= check.rise);
                let over = self.now >= at + least;
                assert!(risen || over || rules.passive.is_none(), "the shun ended early");
                if !risen {
                    known.trial_until = rules.passive.as_ref().map(|rule| self.now + rule.window);
                }
            }
            _ => {}
        }
    }

    /// Checks the invariants that hold at any time.
    pub(super) fn check_invariants(&mut self) {
        let snapshot = self.state.snapshot();
        assert_eq!(snapshot.upstreams.len(), snapshot.config.upstreams.len());
        for (upstream, rules) in snapshot.upstreams.iter().zip(&snapshot.config.upstreams) {
            assert_eq!(upstream.config, *rules);
            let members = upstream.cluster.members();
            let ids = |i: usize| (&members[i].id, members[i].weight);
            assert!(rules.backends.iter().map(|b| (&b.id, b.weight)).eq((0..members.len()).map(ids)));
            assert!(members.is_sorted_by(|a, b| a.id < b.id));
            assert_eq!(upstream.live.len(), members.len());
            let ring = upstream.cluster.ring();
            assert_eq!(ring.members(), members.len());
            assert_eq!(upstream.standings.len(), members.len());
            let states = members.iter().zip(&upstream.standings);
            for ((index, (member, standing)), (backend, live)) in
                (0u16..).zip(states).zip(rules.backends.iter().zip(&upstream.live))
            {
                let key = (Arc::clone(&rules.name), member.id.clone());
                assert_eq!(
                    *self.slots.entry(key.clone()).or_insert(member.slot),
                    member.slot,
                    "a slot changed"
                );
                let owner = self
                    .ids
                    .entry((Arc::clone(&rules.name), member.slot))
                    .or_insert_with(|| member.id.clone());
                assert_eq!(*owner, member.id, "a slot was reused");
                assert_eq!(upstream.cluster.index_of(member.slot), Some(index));
                let first = self.live.entry(key.clone()).or_insert_with(|| Arc::clone(live));
                assert!(Arc::ptr_eq(first, live), "counters were lost");

                let all = ring.points_of(index);
                assert!((1..=all).contains(&member.active_points), "{} of {all}", member.active_points);
                if rules.slow_start.is_zero() {
                    assert_eq!(member.active_points, all);
                }
                if member.admin == AdminState::Maint {
                    assert!(!member.eligible_for_existing() && !member.eligible_for_new());
                }
                let out = member.shunned || member.health == Health::Down;
                assert_eq!(standing.why.is_some(), out, "{member:?}: {standing:?}");
                assert!(standing.since <= self.now);
                assert!(!member.shunned || (member.health == Health::Up && standing.until.is_some()));
                let watched = member.admin != AdminState::Maint;
                assert!(!member.shunned || !watched || rules.passive.is_some(), "{member:?} has no rules");
                let known = &self.known[&key];
                let wanted = known.operator.unwrap_or(backend.admin);
                let expected =
                    if wanted == AdminState::Ready && known.drains { AdminState::Drain } else { wanted };
                assert_eq!(member.admin, expected);
                let unwatched = rules.health_check.is_none() && rules.passive.is_none();
                if unwatched && member.health == Health::Down && member.admin != AdminState::Maint {
                    // Only an ejection from before a reload can remain, until it ends.
                    assert!(self.state.next_wakeup().is_some());
                }
            }
            let ids: Vec<_> = rules.backends.iter().map(|b| (b.id.clone(), b.weight.get())).collect();
            let affinity = &rules.affinity;
            let digest =
                self.digests.entry((affinity.seed.0, affinity.vnodes, ids)).or_insert_with(|| ring.digest());
            assert_eq!(*digest, ring.digest(), "equal backends, weights and seed gave another ring");
        }
        let distinct: HashSet<_> = self.digests.values().collect();
        assert_eq!(distinct.len(), self.digests.len(), "different rings have the same digest");
    }
}

fn ring_of<'a>(snapshot: &'a Snapshot, upstream: &str) -> &'a Arc<Ring> {
    snapshot.upstreams.iter().find(|u| *u.config.name == *upstream).unwrap().cluster.ring()
}
