use std::io::ErrorKind;
use std::net::Ipv4Addr;

use super::*;
use crate::affinity::cookie::{CookieConfig, KeyRing, OnCacheable, SameSite, SecureAttribute};
use crate::affinity::name::Owner;
use crate::affinity::table::Table;
use crate::affinity::{Health, Seed, SessionName, Timestamp, Weight};
use crate::control::fixture::{S, backend, config, passive, tcp_check, upstream};
use crate::control::probe::ProbeFailure;
use crate::control::transition::TransitionReason;
use crate::model::client_net::ClientNet;
use crate::model::snapshot::{Observation, Standing, UpstreamState};
use crate::model::{Backend, Probe, Remember, TableConfig, Upstream};
use crate::secret::SecretKey;

const FAIL: ProbeResult = ProbeResult::Fail(ProbeFailure::Connect(ErrorKind::ConnectionRefused));

/// A control state of one upstream, `web`, and a clock.
struct World {
    state: ControlState,
    now: Duration,
    log: Vec<Transition>,
    /// The clients whose requests failed so far.
    clients: u32,
}

impl World {
    fn new(web: Upstream) -> Self {
        Self {
            state: ControlState::new(config(vec![web]), 2, Duration::ZERO),
            now: Duration::ZERO,
            log: Vec::new(),
            clients: 0,
        }
    }

    fn apply(&mut self, event: Event) -> bool {
        let before = self.state.snapshot();
        let effects = self.state.apply(event, self.now);
        let after = self.state.snapshot();
        assert_eq!(
            effects.changed,
            !Arc::ptr_eq(&before, &after),
            "the snapshot must be rebuilt if and only if something changed"
        );
        assert_eq!(after.generation, before.generation + u64::from(effects.changed));
        self.log.extend(effects.log);
        effects.changed
    }

    fn slot(&self, id: &str) -> Slot {
        self.state.slots().get("web").unwrap().slot_of(&id.parse().unwrap()).unwrap()
    }

    fn probe(&mut self, id: &str, result: ProbeResult) -> bool {
        let slot = self.slot(id);
        self.apply(Event::Probe { upstream: "web".into(), slot, result })
    }

    fn probes(&mut self, id: &str, results: &[ProbeResult]) {
        for &result in results {
            self.probe(id, result);
        }
    }

    fn report(&mut self, id: &str, observation: Observation) -> bool {
        let slot = self.slot(id);
        self.apply(Event::Passive(Report { upstream: "web".into(), slot, observation }))
    }

    /// Fails a request of each of `clients` new clients.
    fn fail_requests(&mut self, id: &str, clients: usize) {
        for _ in 0..clients {
            self.clients += 1;
            self.report(id, Observation::Failed(client(self.clients)));
        }
    }

    /// Lets it answer nobody for `window` while requests of three clients fail.
    fn hang(&mut self, id: &str, window: Duration) {
        self.fail_requests(id, 3);
        self.wait(window);
        self.fail_requests(id, 1);
    }

    /// Returns whether it is up, shunned or down.
    fn state_of(&self, id: &str) -> &'static str {
        match (self.member(id).health, self.member(id).shunned) {
            (Health::Up, false) => "up",
            (Health::Up, true) => "shunned",
            (Health::Down, false) => "down",
            (Health::Down, true) => "down and shunned",
        }
    }

    fn standing(&self, id: &str) -> Standing {
        let web = self.web();
        let index = web.cluster.members().iter().position(|m| m.id.as_str() == id).unwrap();
        web.standings[index].clone()
    }

    fn admin(&mut self, id: &str, state: AdminState) -> bool {
        self.apply(Event::Admin { upstream: "web".into(), backend: id.parse().unwrap(), state })
    }

    fn configure(&mut self, web: Upstream) -> bool {
        self.apply(Event::Configure(config(vec![web])))
    }

    fn wait(&mut self, time: Duration) -> bool {
        self.wait_until(self.now + time)
    }

    fn wait_until(&mut self, time: Duration) -> bool {
        self.now = time;
        self.apply(Event::Tick)
    }

    fn web(&self) -> Arc<UpstreamState> {
        Arc::clone(&self.state.snapshot().upstreams[0])
    }

    fn member(&self, id: &str) -> crate::affinity::Member {
        self.web().cluster.members().iter().find(|m| m.id.as_str() == id).unwrap().clone()
    }

    fn health(&self, id: &str) -> Health {
        self.member(id).health
    }

    fn last(&self) -> &Transition {
        self.log.last().unwrap()
    }
}

fn checked(ids: &[&str]) -> Upstream {
    Upstream { health_check: Some(tcp_check()), ..upstream("web", ids) }
}

fn watched(ids: &[&str]) -> Upstream {
    Upstream { passive: Some(passive()), ..upstream("web", ids) }
}

fn both(ids: &[&str]) -> Upstream {
    Upstream { health_check: Some(tcp_check()), passive: Some(passive()), ..upstream("web", ids) }
}

/// Checked by HTTP.
fn asked(ids: &[&str]) -> Upstream {
    let mut web = both(ids);
    web.health_check.as_mut().unwrap().probe = Probe::Http {
        method: "GET".into(),
        path: "/healthz".into(),
        host: None,
        expect_status: vec![(200, 399)],
        drain_status: vec![],
    };
    web
}

fn client(n: u32) -> ClientNet {
    ClientNet::of(Ipv4Addr::from_bits(0x0a00_0000 + n).into())
}

fn table(max_entries: usize) -> Remember {
    Remember::in_table(TableConfig { max_entries, ttl: 60 * S, file: None })
}

fn cookie(keys: Vec<SecretKey>) -> Remember {
    Remember::in_cookie(CookieConfig {
        name: "homing-web".into(),
        early_name: "homing-web.early".into(),
        former_name: None,
        keys_file: None,
        keys,
        max_age: None,
        max_idle: 60 * S,
        path: "/".into(),
        domain: None,
        secure: SecureAttribute::Auto,
        same_site: SameSite::Lax,
        http_only: true,
        partitioned: false,
        on_cacheable: OnCacheable::Skip,
    })
}

// Active checks.

#[test]
fn fall_consecutive_failures_take_a_backend_down() {
    let mut world = World::new(checked(&["a", "b"]));
    world.probes("a", &[FAIL, FAIL, ProbeResult::Pass, FAIL, FAIL]);
    assert_eq!(world.health("a"), Health::Up);
    assert!(world.probe("a", FAIL));
    assert_eq!(world.health("a"), Health::Down);
    assert_eq!(world.health("b"), Health::Up);
    assert_eq!((world.last().from, world.last().to), ("up", "down"));
    assert!(world.last().reason.is_warning());
    assert_eq!(world.log.len(), 1);
}

#[test]
fn rise_consecutive_successes_bring_a_backend_up() {
    let mut world = World::new(checked(&["a", "b"]));
    world.probes("a", &[FAIL, FAIL, FAIL, ProbeResult::Pass, FAIL, ProbeResult::Pass]);
    assert_eq!(world.health("a"), Health::Down);
    assert!(world.probe("a", ProbeResult::Pass));
    assert_eq!(world.health("a"), Health::Up);
    assert_eq!(world.last().reason, TransitionReason::ChecksPassed);
}

#[test]
fn checks_may_take_the_last_backend_down() {
    let mut world = World::new(both(&["a"]));
    world.probes("a", &[FAIL; 3]);
    assert_eq!(world.health("a"), Health::Down);
}

#[test]
fn initial_health_down_waits_for_rise() {
    let mut world = World::new(Upstream { initial_health: Health::Down, ..checked(&["a"]) });
    assert_eq!(world.health("a"), Health::Down);
    world.probe("a", ProbeResult::Pass);
    assert_eq!(world.health("a"), Health::Down);
    world.probe("a", ProbeResult::Pass);
    assert_eq!(world.health("a"), Health::Up);
}

#[test]
fn without_checks_initial_health_down_is_ignored() {
    let world = World::new(Upstream { initial_health: Health::Down, ..upstream("web", &["a"]) });
    assert_eq!(world.health("a"), Health::Up);
}

#[test]
fn checks_are_fast_while_health_is_changing() {
    let mut world = World::new(checked(&["a"]));
    let interval = |world: &World| world.state.check_interval("web", world.slot("a")).unwrap();
    let mut seen = vec![interval(&world)];
    for result in [FAIL, FAIL, FAIL, FAIL, ProbeResult::Pass, ProbeResult::Pass, ProbeResult::Pass] {
        world.probe("a", result);
        seen.push(interval(&world));
    }
    let (slow, fast) = (2 * S, S / 2);
    assert_eq!(seen, [slow, fast, fast, slow, slow, fast, slow, slow]);
    assert_eq!(world.state.check_interval("web", Slot(9)), None);
    assert_eq!(world.state.check_interval("nowhere", Slot(0)), None);
}

#[test]
fn flapping_backend_is_held_down_longer_each_time() {
    let mut world = World::new(both(&["a", "b"]));
    let mut held = Vec::new();
    for _ in 0..5 {
        world.probes("a", &[FAIL; 3]);
        world.probes("a", &[ProbeResult::Pass; 2]);
        let down_since = world.now;
        while world.health("a") == Health::Down {
            assert_eq!(
                world.state.check_interval("web", world.slot("a")),
                Some(2 * S),
                "no check can change its health"
            );
            let wakeup = world.state.next_wakeup().expect("a wakeup");
            assert!(wakeup > world.now);
            world.wait_until(wakeup);
        }
        held.push(world.now.saturating_sub(down_since));
    }
    assert_eq!(held, [Duration::ZERO, 15 * S, 30 * S, 60 * S, 60 * S]);
}

#[test]
fn without_passive_rules_there_is_no_damping() {
    let mut world = World::new(checked(&["a", "b"]));
    for _ in 0..5 {
        world.probes("a", &[FAIL; 3]);
        world.probes("a", &[ProbeResult::Pass; 2]);
        assert_eq!(world.health("a"), Health::Up);
    }
}

#[test]
fn failed_check_during_the_penalty_restarts_rise() {
    let mut world = World::new(both(&["a", "b"]));
    world.probes("a", &[FAIL; 3]);
    world.probes("a", &[ProbeResult::Pass; 2]);
    world.probes("a", &[FAIL; 3]);
    world.probes("a", &[ProbeResult::Pass, ProbeResult::Pass, FAIL]);
    assert_eq!(world.state.next_wakeup(), None, "time alone must not bring it up");
    world.wait(15 * S);
    assert_eq!(world.health("a"), Health::Down);
    world.probes("a", &[ProbeResult::Pass; 2]);
    assert_eq!(world.health("a"), Health::Up);
}

#[test]
fn late_or_unknown_check_results_change_nothing() {
    let mut world = World::new(upstream("web", &["a", "b"]));
    world.probes("a", &[FAIL; 5]);
    assert_eq!(world.health("a"), Health::Up, "no checks are configured");
    world.configure(checked(&["a"]));
    let gone = world.slot("b");
    for (name, slot) in [("web", gone), ("web", Slot(77)), ("nowhere", Slot(0))] {
        for _ in 0..5 {
            assert!(!world.apply(Event::Probe { upstream: name.into(), slot, result: FAIL }));
        }
    }
    assert_eq!(world.health("a"), Health::Up);
}

// Drain requests of backends.

#[test]
fn drain_status_drains_until_a_check_passes() {
    let mut world = World::new(checked(&["a", "b"]));
    assert!(world.probe("a", ProbeResult::Drain));
    let member = world.member("a");
    assert_eq!((member.admin, member.health), (AdminState::Drain, Health::Up));
    assert!(member.eligible_for_existing() && !member.eligible_for_new());
    assert_eq!(world.last().reason, TransitionReason::Backend);
    world.probe("a", FAIL);
    assert_eq!(world.member("a").admin, AdminState::Drain, "a failed check must not end the drain");
    world.probe("a", ProbeResult::Pass);
    assert_eq!(world.member("a").admin, AdminState::Ready);
}

#[test]
fn stronger_admin_state_wins() {
    let mut world = World::new(checked(&["a", "b"]));
    world.admin("a", AdminState::Drain);
    world.probe("a", ProbeResult::Drain);
    world.probe("a", ProbeResult::Pass);
    assert_eq!(world.member("a").admin, AdminState::Drain, "the operator still drains it");
    world.probe("a", ProbeResult::Drain);
    world.admin("a", AdminState::Ready);
    assert_eq!(world.member("a").admin, AdminState::Drain, "the backend still asks to be drained");
    world.admin("a", AdminState::Maint);
    assert_eq!(world.member("a").admin, AdminState::Maint);
}

#[test]
fn drain_status_counts_towards_rise() {
    let mut world = World::new(checked(&["a", "b"]));
    world.probes("a", &[FAIL, FAIL, FAIL, ProbeResult::Drain, ProbeResult::Drain]);
    let member = world.member("a");
    assert_eq!((member.admin, member.health), (AdminState::Drain, Health::Up));
}

// Admin states set by the operator.

#[test]
fn backend_in_maintenance_is_not_watched() {
    let mut world = World::new(both(&["a", "b"]));
    world.probes("a", &[FAIL, FAIL]);
    world.fail_requests("a", 2);
    world.admin("a", AdminState::Maint);
    assert!(!world.member("a").eligible_for_existing());
    world.probes("a", &[FAIL; 5]);
    world.fail_requests("a", 5);
    assert_eq!(world.health("a"), Health::Up);
    world.admin("a", AdminState::Ready);
    world.probes("a", &[FAIL, FAIL]);
    world.fail_requests("a", 2);
    assert_eq!(world.health("a"), Health::Up, "earlier failures must not count");
}

#[test]
fn unknown_backend_is_an_error_and_changes_nothing() {
    let mut world = World::new(upstream("web", &["a"]));
    let before = world.state.snapshot();
    for (upstream, backend) in [("web", "z"), ("nowhere", "a")] {
        let error = world
            .state
            .set_admin_state(upstream, &backend.parse().unwrap(), AdminState::Drain, S)
            .unwrap_err();
        assert_eq!(error.to_string(), format!("unknown backend `{backend}` in upstream `{upstream}`"));
    }
    assert!(Arc::ptr_eq(&before, &world.state.snapshot()));
}

#[test]
fn event_for_an_unknown_backend_leaves_due_steps_due() {
    let mut world = World::new(slow(&["a", "b"]));
    down_and_up(&mut world, "a");
    world.now += 15 * S;
    assert!(!world.admin("z", AdminState::Drain));
    assert!(world.apply(Event::Tick), "the ramp's step must still be due");
}

#[test]
fn setting_the_same_admin_state_changes_nothing() {
    let mut world = World::new(upstream("web", &["a"]));
    assert!(!world.admin("a", AdminState::Ready));
    assert!(world.admin("a", AdminState::Drain));
    assert!(!world.admin("a", AdminState::Drain));
    assert_eq!(world.log.len(), 1);
}

// Passive checks.

#[test]
fn failed_requests_of_max_fails_clients_shun() {
    for rules in [watched(&["a", "b"]), both(&["a", "b"]), asked(&["a", "b"])] {
        let mut world = World::new(rules);
        world.fail_requests("a", 2);
        world.report("a", Observation::Recovered);
        world.fail_requests("a", 2);
        assert_eq!(world.state_of("a"), "up", "an answer must reset the count");
        world.fail_requests("a", 1);
        assert_eq!(world.state_of("a"), "shunned");
        assert!(world.member("a").eligible_for_existing());
        assert_eq!((world.last().from, world.last().to), ("up", "shunned"));
        let reason = TransitionReason::RequestsFailed { clients: 3, penalty: 15 * S };
        assert_eq!(world.last().reason, reason);
        assert!(reason.is_warning());
        assert_eq!(world.state.next_wakeup(), Some(15 * S));
    }
}

#[test]
fn failures_of_one_client_count_once() {
    let mut world = World::new(watched(&["a", "b"]));
    for n in [1; 20].into_iter().chain([2, 1, 2, 2]) {
        world.report("a", Observation::Failed(client(n)));
    }
    assert_eq!(world.state_of("a"), "up");
    world.report("a", Observation::Failed(client(3)));
    assert_eq!(world.state_of("a"), "shunned");
}

#[test]
fn shunned_backend_gets_new_sessions_when_checks_have_passed_rise_times() {
    for rules in [both(&["a", "b"]), asked(&["a", "b"])] {
        let mut world = World::new(rules);
        world.probe("a", ProbeResult::Pass);
        world.fail_requests("a", 3);
        world.probes("a", &[ProbeResult::Pass, FAIL, ProbeResult::Pass]);
        assert_eq!(world.state_of("a"), "shunned", "passes must be consecutive, and since the failures");
        world.probe("a", ProbeResult::Pass);
        assert_eq!(world.state_of("a"), "up");
        assert_eq!((world.last().from, world.last().to), ("shunned", "up"));
        assert_eq!(world.last().reason, TransitionReason::ChecksPassed);
    }
}

#[test]
fn backend_that_refused_and_is_back_serves_after_rise_checks() {
    let mut world = World::new(both(&["a", "b"]));
    world.fail_requests("a", 5);
    world.probes("a", &[FAIL; 3]);
    assert_eq!(world.state_of("a"), "down");
    world.probes("a", &[ProbeResult::Pass; 2]);
    assert_eq!(world.state_of("a"), "up", "failed requests must not prolong what checks decide");
}

#[test]
fn without_checks_a_shunned_backend_gets_new_sessions_after_the_penalty() {
    let mut world = World::new(watched(&["a", "b"]));
    world.fail_requests("a", 3);
    world.wait(Duration::from_millis(14_999));
    assert_eq!(world.state_of("a"), "shunned");
    world.wait(Duration::from_millis(1));
    assert_eq!(world.state_of("a"), "up");
    assert_eq!(world.last().reason, TransitionReason::PenaltyOver);
}

#[test]
fn backend_on_trial_is_shunned_by_one_failure() {
    let shunned_for = |penalty| TransitionReason::RequestsFailed { clients: 1, penalty };
    for ends in ["not at all", "success", "window"] {
        let mut world = World::new(both(&["a", "b"]));
        world.hang("a", 10 * S);
        world.probes("a", &[ProbeResult::Pass; 2]);
        world.wait(30 * S);
        assert_eq!(world.state_of("a"), "up");
        match ends {
            "success" => drop(world.report("a", Observation::Recovered)),
            "window" => drop(world.wait(10 * S)),
            _ => {}
        }
        world.fail_requests("a", 1);
        let expected = if ends == "not at all" { "shunned" } else { "up" };
        assert_eq!(world.state_of("a"), expected, "{ends}");
        if expected == "shunned" {
            assert_eq!(world.last().reason, shunned_for(60 * S));
        }
    }
}

#[test]
fn penalty_of_a_shunned_backend_is_not_extended() {
    let mut world = World::new(watched(&["a", "b"]));
    world.fail_requests("a", 3);
    world.wait(S);
    world.fail_requests("a", 20);
    assert_eq!(world.state.next_wakeup(), Some(15 * S));
    assert_eq!(world.log.len(), 1);
}

#[test]
fn max_5xx_clients_within_the_window_shun() {
    let mut world = World::new(asked(&["a", "b"]));
    for n in 0..20 {
        world.report("a", Observation::ServerError(client(n)));
        world.report("a", Observation::ServerError(client(n)));
        world.wait(S * 5 / 2); // Never more than four clients in 10 s.
    }
    for _ in 0..100 {
        world.report("a", Observation::ServerError(client(50)));
    }
    assert_eq!(world.state_of("a"), "up", "one client's errors must count once");
    world.report("a", Observation::ServerError(client(51)));
    assert_eq!(world.state_of("a"), "shunned");
    assert_eq!(world.last().reason, TransitionReason::ServerErrors { clients: 5, penalty: 15 * S });
}

#[test]
fn without_max_5xx_server_errors_do_not_shun() {
    let mut rules = passive();
    rules.max_5xx = None;
    let mut world = World::new(Upstream { passive: Some(rules), ..upstream("web", &["a", "b"]) });
    for n in 0..1000 {
        world.report("a", Observation::ServerError(client(n)));
    }
    assert_eq!(world.state_of("a"), "up");
}

#[test]
fn without_passive_rules_reports_change_nothing() {
    let mut world = World::new(upstream("web", &["a", "b"]));
    world.fail_requests("a", 100);
    assert_eq!(world.state_of("a"), "up");
}

#[test]
fn reload_without_passive_rules_ends_a_shun() {
    let mut world = World::new(both(&["a", "b"]));
    world.fail_requests("a", 3);
    world.configure(checked(&["a", "b"]));
    assert_eq!(world.state_of("a"), "up");
    assert_eq!(world.state.next_wakeup(), None);
}

#[test]
fn hung_application_is_down_where_no_check_asks_it() {
    for (rules, has_checks) in [(watched(&["a", "b"]), false), (both(&["a", "b"]), true)] {
        let mut world = World::new(rules);
        world.fail_requests("a", 3);
        world.wait(Duration::from_millis(9_999));
        world.fail_requests("a", 1);
        assert_eq!(world.state_of("a"), "shunned", "the window is not over");
        world.wait(Duration::from_millis(1));
        world.report("a", Observation::Failed(client(1)));
        assert_eq!(world.state_of("a"), "down");
        let reason = TransitionReason::AnsweredNobody { clients: 3, silence: 10 * S, penalty: 30 * S };
        assert_eq!(world.last().reason, reason);
        assert!(reason.is_warning());
        world.wait(30 * S);
        if has_checks {
            assert_eq!(world.state_of("a"), "down", "it must pass its checks too");
            world.probes("a", &[ProbeResult::Pass; 2]);
        }
        assert_eq!(world.state_of("a"), "up");
        assert_eq!(world.last().reason, TransitionReason::PenaltyOver);
        world.fail_requests("a", 9);
        assert_eq!(world.state_of("a"), "shunned", "the next silence must last a window too");
    }
}

#[test]
fn passed_checks_of_the_port_do_not_bring_a_hung_application_back_early() {
    let mut world = World::new(both(&["a", "b"]));
    world.hang("a", 10 * S);
    world.probes("a", &[ProbeResult::Pass; 20]);
    assert_eq!(world.state_of("a"), "down");
}

#[test]
fn one_answer_within_the_window_shows_that_the_application_does_not_hang() {
    let mut world = World::new(both(&["a", "b"]));
    world.fail_requests("a", 9);
    world.wait(9 * S);
    world.report("a", Observation::Recovered);
    world.fail_requests("a", 9);
    world.wait(9 * S);
    world.fail_requests("a", 9);
    assert_eq!(world.state_of("a"), "shunned");
    world.wait(S);
    world.fail_requests("a", 1);
    assert_eq!(world.state_of("a"), "down");
}

#[test]
fn http_checks_alone_decide_about_existing_sessions() {
    let mut world = World::new(asked(&["a", "b"]));
    for _ in 0..100 {
        world.fail_requests("a", 5);
        world.report("a", Observation::ServerError(client(world.clients)));
        world.probe("a", ProbeResult::Pass);
        world.wait(S);
        assert!(world.member("a").eligible_for_existing());
    }
}

#[test]
fn one_client_takes_no_checked_backend_down() {
    let mut rules = both(&["a", "b"]);
    rules.passive.as_mut().unwrap().max_fails = 1;
    let mut world = World::new(rules);
    for _ in 0..100 {
        world.report("a", Observation::Failed(client(1)));
        world.wait(S);
        assert!(world.member("a").eligible_for_existing());
    }
    world.report("a", Observation::Failed(client(2)));
    assert_eq!(world.state_of("a"), "down");
}

#[test]
fn forgiveness_starts_when_the_backend_comes_back() {
    let penalty = |world: &World| match world.last().reason {
        TransitionReason::RequestsFailed { penalty, .. } => penalty,
        other => panic!("{other:?}"),
    };
    let mut world = World::new(watched(&["a", "b"]));
    world.wait(1000 * S);
    world.fail_requests("a", 3);
    world.wait(15 * S);
    world.report("a", Observation::Recovered);
    world.wait(29 * S); // Less than twice the penalty, though much longer since the start.
    world.fail_requests("a", 3);
    assert_eq!(penalty(&world), 30 * S);
    world.wait(30 * S);
    world.report("a", Observation::Recovered);
    world.wait(60 * S);
    world.fail_requests("a", 3);
    assert_eq!(penalty(&world), 30 * S, "one strike must be forgiven");
}

#[test]
fn late_reports_of_a_backend_that_is_down_do_not_count() {
    let mut world = World::new(watched(&["a", "b"]));
    world.hang("a", 10 * S);
    let due = world.state.next_wakeup();
    world.wait(S);
    world.fail_requests("a", 20);
    assert_eq!(world.state.next_wakeup(), due, "the penalty must not be extended");
}

#[test]
fn requests_never_take_the_last_eligible_backend_down() {
    let mut world = World::new(watched(&["a", "b", "c"]));
    world.hang("a", 10 * S);
    world.admin("b", AdminState::Drain);
    world.hang("c", 10 * S);
    world.fail_requests("c", 10);
    assert_eq!(world.health("c"), Health::Up);
    let spared = world.log.iter().filter(|t| t.reason == TransitionReason::LastEligible).count();
    assert_eq!(spared, 1, "must be logged once, not per failure");
    world.hang("b", 10 * S);
    assert_eq!(
        world.health("b"),
        Health::Down,
        "a draining backend may be taken down while another is eligible"
    );
}

#[test]
fn penalty_is_waived_when_no_other_backend_is_eligible() {
    let mut world = World::new(watched(&["a", "b"]));
    world.hang("a", 10 * S);
    assert_eq!(world.state_of("a"), "down");
    world.admin("b", AdminState::Maint);
    assert_eq!(world.health("a"), Health::Up);
    assert_eq!(world.last().reason, TransitionReason::PenaltyWaived);
    world.admin("b", AdminState::Ready);
    world.fail_requests("a", 1);
    assert_eq!(world.state_of("a"), "shunned", "it must be on trial");
}

#[test]
fn waiver_does_not_override_the_checks() {
    let mut world = World::new(both(&["a", "b"]));
    world.hang("a", 10 * S);
    world.probes("b", &[FAIL; 3]);
    assert_eq!(world.health("a"), Health::Down, "no check has passed since");
    world.probes("a", &[ProbeResult::Pass; 2]);
    assert_eq!(world.health("a"), Health::Up, "after passed checks the penalty is waived");
}

#[test]
fn waiver_does_not_end_maintenance() {
    let mut world = World::new(watched(&["a", "b"]));
    world.hang("a", 10 * S);
    world.admin("a", AdminState::Maint);
    world.admin("b", AdminState::Maint);
    assert_eq!(world.health("a"), Health::Down);
    assert!(world.web().cluster.members().iter().all(|m| !m.eligible_for_existing()));
}

#[test]
fn standing_says_why_since_when_and_until_when() {
    let told = |world: &World| {
        let Standing { why, since, until } = world.standing("a");
        (why.map(|why| why.to_string()), since, until)
    };
    let why = |text: &str| Some(text.to_owned());
    let mut world = World::new(Upstream { initial_health: Health::Down, ..both(&["a", "b"]) });
    assert_eq!(told(&world), (why("no check has passed yet"), Duration::ZERO, None));
    world.wait(S);
    world.probes("a", &[ProbeResult::Pass; 2]);
    world.probes("b", &[ProbeResult::Pass; 2]);
    assert_eq!(told(&world), (None, S, None));
    world.wait(S);
    world.fail_requests("a", 3);
    let shunned = "requests of 3 clients failed; shunned for at most 15s";
    assert_eq!(told(&world), (why(shunned), 2 * S, Some(17 * S)));
    world.wait(10 * S);
    world.fail_requests("a", 1);
    let hung = "answered nobody for 10s while requests of 3 clients failed; down for at least 30s";
    assert_eq!(told(&world), (why(hung), 12 * S, Some(42 * S)));
    world.probes("a", &[ProbeResult::Pass; 2]);
    world.wait_until(50 * S);
    assert_eq!(told(&world), (None, 50 * S, None));
    world.probes("a", &[FAIL; 3]);
    let refused = "checks failed: connect failed: connection refused";
    assert_eq!(told(&world), (why(refused), 50 * S, None));
}

// Slow start.

fn slow(ids: &[&str]) -> Upstream {
    Upstream { slow_start: 30 * S, ..checked(ids) }
}

fn down_and_up(world: &mut World, id: &str) {
    world.probes(id, &[FAIL; 3]);
    world.probes(id, &[ProbeResult::Pass; 2]);
}

/// Ticks as the controller would. Returns the active points after each tick.
fn ramp(world: &mut World, id: &str) -> Vec<u32> {
    let mut seen = vec![world.member(id).active_points];
    while let Some(wakeup) = world.state.next_wakeup() {
        assert!(wakeup > world.now);
        let ring = Arc::clone(world.web().cluster.ring());
        world.wait_until(wakeup);
        assert!(Arc::ptr_eq(&ring, world.web().cluster.ring()), "a step must not rebuild the ring");
        seen.push(world.member(id).active_points);
    }
    seen
}

#[test]
fn recovered_backend_ramps_up() {
    let mut world = World::new(slow(&["a", "b"]));
    down_and_up(&mut world, "a");
    let seen = ramp(&mut world, "a");
    assert_eq!(world.now, 30 * S);
    assert_eq!((seen[0], seen[seen.len() - 1]), (10, 100));
    assert!(seen.is_sorted());
    assert!(seen.len() > 10 && seen.len() <= 101, "{} steps", seen.len());
    assert_eq!(world.member("b").active_points, 100);
}

#[test]
fn added_backend_ramps_up() {
    let mut world = World::new(slow(&["a", "b"]));
    world.configure(slow(&["a", "b", "c"]));
    assert_eq!(world.member("c").active_points, 10);
    assert_eq!(world.member("a").active_points, 100);
}

#[test]
fn backend_back_from_maintenance_ramps_up() {
    let mut world = World::new(slow(&["a", "b"]));
    world.admin("a", AdminState::Maint);
    world.admin("a", AdminState::Ready);
    assert_eq!(world.member("a").active_points, 10);
}

#[test]
fn backend_back_from_draining_does_not_ramp_up() {
    let mut world = World::new(slow(&["a", "b"]));
    world.admin("a", AdminState::Drain);
    world.admin("a", AdminState::Ready);
    assert_eq!(world.member("a").active_points, 100);
}

#[test]
fn no_slow_start_at_process_start() {
    for initial_health in [Health::Up, Health::Down] {
        let mut world = World::new(Upstream { initial_health, ..slow(&["a", "b"]) });
        world.probes("a", &[ProbeResult::Pass; 2]);
        world.wait(S);
        world.probes("b", &[ProbeResult::Pass; 2]);
        assert_eq!(world.health("b"), Health::Up);
        assert_eq!(world.member("a").active_points, 100);
        assert_eq!(world.member("b").active_points, 100);
    }
}

#[test]
fn backend_found_down_at_process_start_ramps_up_when_it_recovers() {
    let mut world = World::new(Upstream { initial_health: Health::Down, ..slow(&["a", "b"]) });
    world.probes("a", &[ProbeResult::Pass; 2]);
    world.probes("b", &[FAIL, ProbeResult::Pass, ProbeResult::Pass]);
    assert_eq!(world.member("b").active_points, 10);
}

#[test]
fn no_slow_start_without_another_eligible_backend() {
    let mut world = World::new(slow(&["a", "b"]));
    world.probes("b", &[FAIL; 3]);
    down_and_up(&mut world, "a");
    assert_eq!(world.member("a").active_points, 100);
    world.probes("b", &[ProbeResult::Pass; 2]);
    assert_eq!(world.member("b").active_points, 10, "the second backend must ramp up");
}

#[test]
fn going_down_while_ramping_restarts_the_ramp() {
    let mut world = World::new(slow(&["a", "b"]));
    down_and_up(&mut world, "a");
    world.wait(15 * S);
    assert_eq!(world.member("a").active_points, 55);
    down_and_up(&mut world, "a");
    assert_eq!(world.member("a").active_points, 10);
    world.wait(15 * S);
    assert_eq!(world.member("a").active_points, 55);
}

#[test]
fn busy_upstream_does_not_delay_the_ramps_of_another() {
    let mut state =
        ControlState::new(config(vec![upstream("busy", &["x"]), slow(&["a", "b"])]), 1, Duration::ZERO);
    for result in [FAIL, FAIL, FAIL, ProbeResult::Pass, ProbeResult::Pass] {
        state.apply(Event::Probe { upstream: "web".into(), slot: Slot(0), result }, Duration::ZERO);
    }
    let due = state.next_wakeup().unwrap();
    let report = Report { upstream: "busy".into(), slot: Slot(0), observation: Observation::Recovered };
    state.apply(Event::Passive(report), due + S);
    assert_eq!(state.next_wakeup(), Some(due), "an overdue step must not be skipped");
}

#[test]
fn interrupted_ramp_is_discarded() {
    let mut world = World::new(slow(&["a", "b"]));
    down_and_up(&mut world, "a");
    world.probes("a", &[FAIL; 3]);
    assert_eq!(world.state.next_wakeup(), None, "nothing must be ramping");
    world.probes("b", &[FAIL; 3]);
    world.probes("a", &[ProbeResult::Pass; 2]);
    assert_eq!(world.member("a").active_points, 100, "no other backend is eligible");
}

#[test]
fn draining_does_not_stop_a_ramp() {
    let mut world = World::new(slow(&["a", "b"]));
    down_and_up(&mut world, "a");
    world.admin("a", AdminState::Drain);
    world.wait(15 * S);
    world.admin("a", AdminState::Ready);
    assert_eq!(world.member("a").active_points, 55);
}

#[test]
fn reload_without_slow_start_ends_ramps() {
    let mut world = World::new(slow(&["a", "b"]));
    down_and_up(&mut world, "a");
    world.configure(checked(&["a", "b"]));
    assert_eq!(world.member("a").active_points, 100);
    assert_eq!(world.state.next_wakeup(), None);
}

// Reload.

#[test]
fn equal_configuration_changes_nothing() {
    let mut world = World::new(both(&["a", "b"]));
    assert!(!world.configure(both(&["a", "b"])));
    let (summary, effects) = world.state.configure(config(vec![both(&["a", "b"])]), S).unwrap();
    assert!(summary.is_empty() && !effects.changed);
    assert_eq!(summary.to_string(), "nothing changed");
}

#[test]
fn reload_keeps_health_counters_slots_and_admin_states() {
    let mut world = World::new(Upstream { slow_start: 30 * S, ..both(&["b", "c", "d", "e"]) });
    world.probes("b", &[FAIL; 3]);
    world.fail_requests("c", 3);
    world.admin("d", AdminState::Drain);
    world.probe("e", ProbeResult::Drain);
    let before = world.web();
    let live = |state: &UpstreamState, id: &str| {
        let index = state.cluster.members().iter().position(|m| m.id.as_str() == id).unwrap();
        Arc::clone(&state.live[index])
    };
    world.configure(Upstream { slow_start: 30 * S, ..both(&["a", "b", "c", "d", "e"]) });
    let after = world.web();
    assert_eq!((world.state_of("b"), world.state_of("c")), ("down", "shunned"));
    assert_eq!((world.member("d").admin, world.member("e").admin), (AdminState::Drain, AdminState::Drain));
    for id in ["b", "c", "d", "e"] {
        assert!(Arc::ptr_eq(&live(&before, id), &live(&after, id)));
        let slot = |s: &UpstreamState| s.cluster.members().iter().find(|m| m.id.as_str() == id).unwrap().slot;
        assert_eq!(slot(&before), slot(&after));
    }
    assert_eq!(world.member("a").slot, Slot(4), "must get a new slot even if it sorts first");
}

#[test]
fn backend_that_is_added_again_keeps_slot_and_counters_but_no_history() {
    let mut world = World::new(checked(&["a", "b"]));
    world.probes("a", &[FAIL; 3]);
    world.admin("a", AdminState::Drain);
    let live = Arc::clone(&world.web().live[0]);
    world.configure(checked(&["b"]));
    assert_eq!(world.web().cluster.index_of(Slot(0)), None);
    world.configure(checked(&["a", "b"]));
    let member = world.member("a");
    assert_eq!((member.slot, member.health, member.admin), (Slot(0), Health::Up, AdminState::Ready));
    assert!(Arc::ptr_eq(&live, &world.web().live[0]));
}

#[test]
fn operators_state_ends_when_the_file_changes_it() {
    let file = |state| {
        let mut web = upstream("web", &["a", "b"]);
        web.backends[0].admin = state;
        web
    };
    let mut world = World::new(file(AdminState::Ready));
    world.admin("a", AdminState::Maint);
    let mut other = file(AdminState::Ready);
    other.backends[0].weight = Weight::new(2).unwrap();
    world.configure(other);
    assert_eq!(world.member("a").admin, AdminState::Maint, "the state in the file has not changed");
    world.configure(file(AdminState::Drain));
    assert_eq!(world.member("a").admin, AdminState::Drain);
    world.configure(file(AdminState::Ready));
    assert_eq!(world.member("a").admin, AdminState::Ready);
}

#[test]
fn ring_is_rebuilt_only_if_it_changes() {
    let mut world = World::new(checked(&["a", "b"]));
    let ring = |world: &World| Arc::clone(world.web().cluster.ring());
    let before = ring(&world);
    let mut other = checked(&["a", "b"]);
    other.slow_start = S;
    other.backends[0] = Backend { max_connections: Some(1), ..backend("a") };
    world.configure(other.clone());
    world.probes("a", &[FAIL; 3]);
    assert!(Arc::ptr_eq(&before, &ring(&world)));

    let weight = {
        let mut u = other.clone();
        u.backends[1].weight = Weight::new(2).unwrap();
        u
    };
    let vnodes = {
        let mut u = other.clone();
        u.affinity.vnodes = 50;
        u
    };
    let seed = {
        let mut u = other.clone();
        u.affinity.seed = Seed(8);
        u
    };
    for changed in [weight, vnodes, seed, checked(&["a", "c"])] {
        let before = ring(&world);
        world.configure(changed);
        assert!(!Arc::ptr_eq(&before, &ring(&world)));
    }
}

#[test]
fn removing_checks_brings_back_backends_that_they_took_down() {
    let mut world = World::new(checked(&["a", "b"]));
    world.probes("a", &[FAIL; 3]);
    world.probe("b", ProbeResult::Drain);
    world.configure(upstream("web", &["a", "b"]));
    assert_eq!(world.health("a"), Health::Up);
    assert_eq!(world.member("b").admin, AdminState::Ready);
}

#[test]
fn other_settings_publish_a_snapshot_with_the_same_upstreams() {
    let mut world = World::new(checked(&["a"]));
    let before = world.web();
    let mut other = (*config(vec![checked(&["a"])])).clone();
    other.limits.connections = 99;
    let (summary, effects) = world.state.configure(Arc::new(other), S).unwrap();
    assert!(effects.changed && summary.settings && summary.upstreams.is_empty());
    assert!(Arc::ptr_eq(&before, &world.web()));
    assert_eq!(world.state.snapshot().config.limits.connections, 99);
}

#[test]
fn summary_lists_the_changes() {
    let mut state = ControlState::new(
        config(vec![upstream("api", &["x"]), upstream("old", &["o"]), upstream("web", &["a", "b", "c"])]),
        1,
        S,
    );
    let mut web = upstream("web", &["a", "c", "d"]);
    web.backends[1].weight = Weight::new(3).unwrap();
    let next = config(vec![upstream("api", &["x"]), upstream("new", &["n"]), web]);
    let (summary, effects) = state.configure(next, S).unwrap();
    assert_eq!(
        summary.to_string(),
        "upstream new added; upstream old removed; upstream web changed, added d, removed b, changed c"
    );
    assert_eq!(summary.generation, 2);
    assert!(summary.upstreams[2].ring && !summary.upstreams[2].forgotten);
    let told: Vec<_> =
        effects.log.iter().map(|t| (t.backend.as_ref().unwrap().as_str().to_owned(), t.from, t.to)).collect();
    assert_eq!(told, [("d".into(), "absent", "up"), ("b".into(), "up", "absent")]);
}

#[test]
fn upstreams_are_matched_by_name_not_by_index() {
    let mut state = ControlState::new(config(vec![checked(&["a", "b"])]), 1, S);
    for _ in 0..3 {
        state.apply(Event::Probe { upstream: "web".into(), slot: Slot(0), result: FAIL }, S);
    }
    state.configure(config(vec![upstream("app", &["x"]), checked(&["a", "b"])]), S).unwrap();
    assert_eq!(state.snapshot().upstreams[1].cluster.members()[0].health, Health::Down);
}

// Memory.

fn both_layers() -> Remember {
    Remember { cookie: cookie(Vec::new()).cookie, ..table(10) }
}

fn table_of(world: &World) -> Arc<Table> {
    world.web().memory.table.clone().expect("a table")
}

fn keys_of(world: &World) -> Arc<KeyRing> {
    world.web().memory.seals.clone().expect("sealed cookies").keys
}

fn remembering(remember: Remember) -> Upstream {
    let mut web = upstream("web", &["a", "b"]);
    web.affinity.remember = remember;
    web
}

#[test]
fn table_survives_reloads() {
    let mut world = World::new(remembering(table(10)));
    let before = table_of(&world);
    let mut other = remembering(table(20));
    other.backends.pop();
    world.configure(other);
    assert!(Arc::ptr_eq(&before, &table_of(&world)));
    assert_eq!(before.max_entries(), 20);
    assert!(!world.log.iter().any(|t| t.reason.is_warning()));
}

#[test]
fn table_survives_a_seed_change() {
    let mut world = World::new(remembering(table(10)));
    let before = table_of(&world);
    let mut other = remembering(table(10));
    other.affinity.seed = Seed(99);
    world.configure(other);
    assert!(Arc::ptr_eq(&before, &table_of(&world)), "names do not depend on the seed");
    assert!(!world.log.iter().any(|t| t.reason.is_warning()));
}

#[test]
fn slots_of_removed_backends_without_sessions_are_given_back() {
    let with = |ids: &[&str]| {
        let mut web = upstream("web", ids);
        web.affinity.remember = table(10);
        web
    };
    let mut state = ControlState::new(config(vec![with(&["a", "b", "c", "d"])]), 1, S);
    let table = state.snapshot().upstreams[0].memory.table.clone().expect("a table");
    let members = state.snapshot().upstreams[0].cluster.members().to_vec();
    table.bind(SessionName(7), members[1].slot, Owner(0), Timestamp(1));
    let busy = Arc::clone(&state.snapshot().upstreams[0].live[2]);
    busy.begin(0);
    state.configure(config(vec![with(&["a"])]), S).unwrap();
    let slots = state.slots().get("web").unwrap();
    for n in 0.. {
        if slots.slot_of(&format!("gone{n}").parse().unwrap()).is_none() {
            break;
        }
    }
    state.configure(config(vec![with(&["new1", "new2"])]), S).unwrap();
    for (member, kept) in members.iter().zip([true, true, true, false]) {
        let still = slots.id_of(member.slot).is_some_and(|id| id == member.id);
        assert_eq!(still, kept, "{}", member.id);
    }
    busy.end(0);
    let members = state.snapshot().upstreams[0].cluster.members().to_vec();
    assert!(members.iter().all(|member| slots.id_of(member.slot).as_ref() == Some(&member.id)));
}

#[test]
fn layers_hand_their_sessions_to_each_other() {
    let mut world = World::new(remembering(Remember::NONE));
    world.configure(remembering(table(10)));
    let sessions = table_of(&world);
    assert!(world.log.is_empty(), "nothing was lost");
    world.configure(remembering(cookie(Vec::new())));
    assert!(Arc::ptr_eq(&sessions, &table_of(&world)), "the table serves until its entries expire");
    assert!(world.web().table().is_none(), "it is no longer shown");
    let keys = keys_of(&world);
    world.configure(remembering(both_layers()));
    world.configure(remembering(table(20)));
    assert!(Arc::ptr_eq(&sessions, &table_of(&world)));
    assert!(Arc::ptr_eq(&keys, &keys_of(&world)), "sealed cookies are still read");
    assert_eq!(sessions.max_entries(), 20);
    assert!(world.log.is_empty(), "nothing was lost");
}

#[test]
fn remembering_nothing_forgets_everything_and_warns() {
    for before in [table(10), cookie(Vec::new()), both_layers()] {
        let mut world = World::new(remembering(before.clone()));
        world.configure(remembering(Remember::NONE));
        assert_eq!(world.last().reason, TransitionReason::RememberChanged);
        assert_eq!((world.last().from, world.last().to), (before.as_str(), "none"));
        let memory = &world.web().memory;
        assert!(memory.table.is_none() && memory.seals.is_none());
    }
}

#[test]
fn cookie_keys_are_kept_until_they_change() {
    let mut world = World::new(remembering(cookie(Vec::new())));
    let ephemeral = keys_of(&world);
    let mut other = remembering(cookie(Vec::new()));
    other.affinity.seed = Seed(99);
    other.affinity.announce = true;
    world.configure(other);
    assert!(Arc::ptr_eq(&ephemeral, &keys_of(&world)), "an ephemeral key must survive a reload");
    world.configure(remembering(cookie(vec![SecretKey([1; 32])])));
    let first = keys_of(&world);
    assert!(!Arc::ptr_eq(&ephemeral, &first));
    world.configure(remembering(cookie(vec![SecretKey([2; 32]), SecretKey([1; 32])])));
    assert!(!Arc::ptr_eq(&first, &keys_of(&world)));
}

#[test]
fn renamed_cookie_is_read_under_its_old_name() {
    let mut world = World::new(remembering(cookie(Vec::new())));
    let mut renamed = cookie(Vec::new());
    renamed.cookie.as_mut().expect("a cookie").name = "stick".into();
    world.configure(remembering(renamed.clone()));
    renamed.cookie.as_mut().expect("a cookie").max_idle = 90 * S;
    world.configure(remembering(renamed));
    let config = world.web().memory.seals.clone().expect("sealed cookies").config;
    assert_eq!((config.name.as_str(), config.former_name.as_deref()), ("stick", Some("homing-web")));
}
