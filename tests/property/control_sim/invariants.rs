//! What must hold in the simulation, after each event and at any time.

use std::collections::HashSet;
use std::sync::Arc;

use homing::affinity::ring::Ring;
use homing::affinity::{AdminState, Health, Member};
use homing::control::{Effects, Event};
use homing::model::snapshot::{Observation, Report, Snapshot};

use super::{FAIL, Known, Seen, Sim, member};

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
                    "passive checks ejected the last eligible backend"
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
                                known.ejected = None;
                            }
                            Event::Passive(Report { slot, observation, .. }) => {
                                seen.ejections += 1;
                                let rule = rules.passive.as_ref().unwrap();
                                assert_eq!(*slot, new.slot);
                                let on_trial = known.trial_until.is_some_and(|until| self.now < until);
                                match observation {
                                    Observation::Failed | Observation::BrokenOff(_) => {
                                        assert!(
                                            known.failed_requests
                                                >= if on_trial { 1 } else { rule.max_fails }
                                        );
                                    }
                                    Observation::ServerError => {
                                        assert!(known.server_errors >= rule.max_5xx.unwrap());
                                    }
                                    Observation::Recovered => panic!("a success ejected a backend"),
                                }
                                known.ejected = Some((self.now, rule.penalty));
                            }
                            _ => panic!("{event:?} took a backend down"),
                        }
                        *known = Known {
                            passes: 0,
                            fails: 0,
                            failed_requests: 0,
                            server_errors: 0,
                            ..known.clone()
                        };
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
                        if let Some((at, penalty)) = known.ejected {
                            assert!(
                                alone || self.now >= at + penalty,
                                "it came up before its penalty was over"
                            );
                        }
                        known.trial_until = rules.passive.as_ref().map(|rule| self.now + rule.window);
                        known.ejected = None;
                        *known = Known {
                            passes: 0,
                            fails: 0,
                            failed_requests: 0,
                            server_errors: 0,
                            ..known.clone()
                        };
                    }
                    (Health::Up, Health::Up) | (Health::Down, Health::Down) => {
                        // While a backend stays up, its active points only grow.
                        if old.eligible_for_existing() && old.weight == new.weight {
                            let same = Arc::ptr_eq(upstream.cluster.ring(), ring_of(before, &rules.name));
                            assert!(!same || new.active_points >= old.active_points, "active points shrank");
                        }
                    }
                }
                seen.ramps += u32::from(new.active_points != old.active_points);
            }
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
            for ((index, member), (backend, live)) in
                (0u16..).zip(members).zip(rules.backends.iter().zip(&upstream.live))
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
