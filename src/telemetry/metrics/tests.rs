use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::affinity::pick::{Outcome, Reason};
use crate::affinity::{AdminState, Health};
use crate::telemetry::exposition::Kind;
use crate::telemetry::{Record, fixture};

/// Returns the sample lines of a page.
fn samples(page: &str) -> BTreeSet<&str> {
    page.lines().filter(|line| !line.starts_with('#')).collect()
}

#[track_caller]
fn assert_has(page: &str, sample: &str) {
    let family = sample.split(['{', ' ']).next().expect("a name");
    let near: Vec<_> = samples(page).into_iter().filter(|line| line.starts_with(family)).collect();
    assert!(samples(page).contains(sample), "{sample} is not in {near:#?}");
}

#[test]
fn scrape_sums_over_workers() {
    let upstream = fixture::upstream("shop", &["node1", "node2"]);
    let metrics = Metrics::new(3);
    for index in 0..3 {
        let worker = metrics.worker(index);
        let cell = worker.upstream("shop");
        worker.connection_opened();
        worker.connection_opened();
        worker.connection_closed();
        worker.refused_connection(Refusal::PerClient);
        worker.tunnel_opened();
        cell.connection_opened();
        cell.connection_reused();
        cell.connection_reused();
        worker.record_in(&cell, &fixture::record(&upstream));
        worker.record_in(
            &cell,
            &Record {
                status: 503,
                error: Some("no_backend"),
                outcome: Some(Outcome::Moved),
                reason: Some(Reason::BackendDown),
                attempts: 3,
                connect: Duration::from_millis(5),
                ..fixture::record(&upstream)
            },
        );
        worker.record(&fixture::unrouted());
    }
    metrics.worker(0).tunnel_closed();

    let page = metrics.render(&fixture::snapshot(7, vec![upstream]));
    for sample in [
        "homing_snapshot_generation 7",
        "homing_connections 3",
        "homing_connections_accepted_total 6",
        "homing_connections_refused_total{limit=\"connections_per_client\"} 3",
        "homing_tunnels 2",
        "homing_tunnels_opened_total 3",
        "homing_requests_total{upstream=\"shop\",outcome=\"kept\",reason=\"\"} 3",
        "homing_requests_total{upstream=\"shop\",outcome=\"moved\",reason=\"backend_down\"} 3",
        "homing_requests_total{upstream=\"shop\",outcome=\"moved\",reason=\"removed\"} 0",
        "homing_requests_total{upstream=\"shop\",outcome=\"new\",reason=\"\"} 0",
        "homing_requests_total{upstream=\"\",outcome=\"none\",reason=\"\"} 3",
        "homing_responses_total{upstream=\"shop\",class=\"2xx\",source=\"backend\"} 3",
        "homing_responses_total{upstream=\"shop\",class=\"5xx\",source=\"proxy\"} 3",
        "homing_responses_total{upstream=\"shop\",class=\"5xx\",source=\"backend\"} 0",
        "homing_responses_total{upstream=\"\",class=\"4xx\",source=\"proxy\"} 3",
        "homing_errors_total{upstream=\"shop\",error=\"no_backend\"} 3",
        "homing_errors_total{upstream=\"\",error=\"no_route\"} 3",
        "homing_request_duration_seconds_bucket{upstream=\"shop\",le=\"0.0008\"} 0",
        "homing_request_duration_seconds_bucket{upstream=\"shop\",le=\"0.0016\"} 6",
        "homing_request_duration_seconds_count{upstream=\"shop\"} 6",
        "homing_request_duration_seconds_sum{upstream=\"shop\"} 0.009",
        "homing_connect_seconds_count{upstream=\"shop\"} 3",
        "homing_attempts_total{upstream=\"shop\"} 12",
        "homing_retries_total{upstream=\"shop\"} 6",
        "homing_pool_connections_total{upstream=\"shop\",use=\"fresh\"} 3",
        "homing_pool_connections_total{upstream=\"shop\",use=\"reused\"} 6",
        "homing_received_bytes_total{upstream=\"shop\"} 720",
        "homing_sent_bytes_total{upstream=\"shop\"} 20400",
    ] {
        assert_has(&page, sample);
    }
}

#[test]
fn backends_have_state_and_load() {
    let upstream = fixture::upstream("shop", &["node1", "node2"]);
    upstream.live[0].begin(0);
    upstream.live[0].begin(1);
    upstream.live[0].end(1);
    upstream.live[1].opened();
    let upstream = fixture::with_members(&upstream, |members| {
        members[0].admin = AdminState::Drain;
        members[1].health = Health::Down;
        // Halfway through slow start.
        members[1].active_points /= 2;
    });
    let page = Metrics::new(1).render(&fixture::snapshot(1, vec![upstream]));
    for sample in [
        "homing_backend_up{upstream=\"shop\",backend=\"node1\"} 1",
        "homing_backend_up{upstream=\"shop\",backend=\"node2\"} 0",
        "homing_backend_state{upstream=\"shop\",backend=\"node1\",state=\"ready\"} 0",
        "homing_backend_state{upstream=\"shop\",backend=\"node1\",state=\"drain\"} 1",
        "homing_backend_state{upstream=\"shop\",backend=\"node2\",state=\"ready\"} 1",
        "homing_backend_in_flight{upstream=\"shop\",backend=\"node1\"} 1",
        "homing_backend_requests_total{upstream=\"shop\",backend=\"node1\"} 2",
        "homing_backend_connections{upstream=\"shop\",backend=\"node2\"} 1",
        "homing_ring_active{upstream=\"shop\",backend=\"node1\"} 1",
        "homing_ring_active{upstream=\"shop\",backend=\"node2\"} 0.5",
    ] {
        assert_has(&page, sample);
    }
    let shares = samples(&page).into_iter().filter_map(|line| {
        let value = line.strip_prefix("homing_ring_share{")?.rsplit_once(' ')?.1;
        value.parse::<f64>().ok()
    });
    let shares: Vec<f64> = shares.collect();
    assert!(
        shares.len() == 2 && (shares[0] + shares[1] - 1.0).abs() < 1e-6 && shares[0] < shares[1],
        "{shares:?}"
    );
    assert!(!page.contains("homing_table_entries{"), "table metrics without a table");
}

#[test]
fn table_metrics_exist_only_with_a_table() {
    let upstream = fixture::upstream_with_table("shop", &["node1", "node2"]);
    if let Some(table) = upstream.table() {
        let now = crate::affinity::Timestamp(1_000);
        for key in 0..3 {
            table.bind(
                crate::affinity::SessionName(key * 0x1234_5678_9abc_def1),
                crate::affinity::Slot(1),
                crate::affinity::name::Owner(0),
                now,
            );
        }
    }
    let page = Metrics::new(1).render(&fixture::snapshot(1, vec![upstream]));
    assert_has(&page, "homing_table_entries{upstream=\"shop\"} 3");
    assert_has(&page, "homing_table_max_entries{upstream=\"shop\"} 1000");
    assert_has(&page, "homing_backend_sessions{upstream=\"shop\",backend=\"node1\"} 0");
    assert_has(&page, "homing_backend_sessions{upstream=\"shop\",backend=\"node2\"} 3");
}

#[test]
fn counters_survive_removal_of_their_upstream() {
    let metrics = Metrics::new(1);
    let shop = fixture::upstream("shop", &["node1"]);
    metrics.worker(0).record(&fixture::record(&shop));
    let page = metrics.render(&fixture::snapshot(2, vec![fixture::upstream("blog", &["node9"])]));
    assert_has(&page, "homing_requests_total{upstream=\"shop\",outcome=\"kept\",reason=\"\"} 1");
    assert_has(&page, "homing_requests_total{upstream=\"blog\",outcome=\"kept\",reason=\"\"} 0");
    assert!(!page.contains("upstream=\"shop\",backend="), "a removed backend is still exposed");
}

#[test]
fn losses_of_earlier_access_logs_are_kept() {
    let metrics = Metrics::new(1);
    let snapshot = fixture::snapshot(1, Vec::new());
    assert_has(&metrics.render(&snapshot), "homing_access_log_dropped_total 0");
    let first = AccessLog::off();
    metrics.watch_access_log(&first);
    first.counts().count_for_test(5, 1);
    assert_has(&metrics.render(&snapshot), "homing_access_log_dropped_total 5");
    let second = AccessLog::off();
    metrics.watch_access_log(&second);
    second.counts().count_for_test(2, 2);
    assert_has(&metrics.render(&snapshot), "homing_access_log_dropped_total 7");
    assert_has(&metrics.render(&snapshot), "homing_access_log_errors_total 3");
}

/// Returns a page on which every family has samples.
fn full_page() -> String {
    let metrics = Metrics::new(1);
    let upstream = fixture::upstream_with_table("shop", &["node1"]);
    metrics.worker(0).record(&fixture::unrouted());
    metrics.worker(0).record(&fixture::record(&upstream));
    metrics.render(&fixture::snapshot(1, vec![upstream]))
}

#[test]
fn page_is_well_formed_and_has_every_family_once_in_order() {
    let page = full_page();
    assert!(page.ends_with('\n'));
    let typed: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let listed: Vec<_> =
        families::ALL.iter().map(|family| format!("{} {}", family.name, family.kind.as_str())).collect();
    assert_eq!(typed, listed);

    let mut seen = BTreeSet::new();
    let mut family = families::ALL[0];
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().expect("a name");
            family = families::ALL.iter().find(|family| family.name == name).expect("listed");
            continue;
        }
        if line.starts_with("# TYPE ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok_and(|n| n >= 0.0), "{line}");
        assert!(seen.insert(series), "duplicate series {series}");
        let name = series.split('{').next().expect("a name");
        let suffix = name.strip_prefix(family.name).expect("a sample of another family");
        match family.kind {
            Kind::Histogram => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            Kind::Counter | Kind::Gauge => assert_eq!(suffix, "", "{line}"),
        }
    }
}

#[test]
fn metric_names_follow_the_conventions() {
    for family in families::ALL {
        let total = family.name.ends_with("_total");
        assert_eq!(total, family.kind == Kind::Counter, "{}", family.name);
        assert!(family.help.ends_with('.'), "{}", family.name);
    }
}

/// Returns the rows of the first table after a heading. Cells lose their outer backticks.
fn table_after<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, rest) = document.split_once(heading).expect("the heading is there");
    let rows =
        rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect()
}

#[test]
fn operations_page_lists_exactly_these_metrics() {
    let document = include_str!("../../../docs/operations.md");
    let documented: Vec<_> =
        table_after(document, "## Metrics").into_iter().map(|row| row.join(" | ")).collect();
    let exposed: Vec<_> = families::ALL
        .iter()
        .map(|family| {
            let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            // Remove the outer backticks, as `table_after` does.
            let labels = labels.join(", ");
            let labels = labels.trim_matches('`');
            format!("{} | {} | {labels} | {}", family.name, family.kind.as_str(), family.help)
        })
        .collect();
    assert_eq!(documented, exposed, "docs/operations.md and telemetry/families.rs differ");
}
