//! The metrics of upstreams and backends that come from the snapshot: lines, state, health, load.

use std::sync::Arc;

use super::exposition::Exposition;
use super::families;
use crate::affinity::{AdminState, Health, Member};
use crate::model::line::Left;
use crate::model::snapshot::UpstreamState;

pub(super) fn queues(page: &mut Exposition, upstreams: &[Arc<UpstreamState>]) {
    let mut samples = page.family(&families::QUEUE_LENGTH);
    for upstream in upstreams {
        samples.sample(&[&*upstream.config.name], upstream.line.len());
    }
    let mut samples = page.family(&families::QUEUE_LEFT);
    for upstream in upstreams {
        for how in Left::ALL {
            samples.sample(&[&*upstream.config.name, how.as_str()], upstream.line.left(how));
        }
    }
}

pub(super) fn backends(page: &mut Exposition, upstreams: &[Arc<UpstreamState>]) {
    let members = || {
        upstreams.iter().flat_map(|upstream| {
            let members = upstream.cluster.members().iter().zip(&upstream.live);
            members.map(move |(member, live)| {
                (upstream, member, live, [&*upstream.config.name, member.id.as_str()])
            })
        })
    };

    let mut samples = page.family(&families::BACKEND_UP);
    for (_, member, _, labels) in members() {
        samples.sample(&labels, u8::from(member.health == Health::Up));
    }
    let mut samples = page.family(&families::BACKEND_STATE);
    for (_, member, _, [upstream, backend]) in members() {
        for state in [AdminState::Ready, AdminState::Drain, AdminState::Maint] {
            samples.sample(&[upstream, backend, state.as_str()], u8::from(member.admin == state));
        }
    }
    let mut samples = page.family(&families::BACKEND_IN_FLIGHT);
    for (_, _, live, labels) in members() {
        samples.sample(&labels, live.in_flight());
    }
    let mut samples = page.family(&families::BACKEND_CONNECTIONS);
    for (_, _, live, labels) in members() {
        samples.sample(&labels, live.connections());
    }
    let mut samples = page.family(&families::BACKEND_REQUESTS);
    for (_, _, live, labels) in members() {
        samples.sample(&labels, live.requests());
    }
    let mut samples = page.family(&families::BACKEND_SESSIONS);
    for (upstream, member, _, labels) in members() {
        if let Some(table) = upstream.table() {
            samples.sample(&labels, table.sessions(member.slot));
        }
    }
    let mut samples = page.family(&families::RING_SHARE);
    for upstream in upstreams {
        for (member, share) in upstream.cluster.members().iter().zip(upstream.cluster.ring().shares()) {
            samples.sample(&[&*upstream.config.name, member.id.as_str()], share);
        }
    }
    let mut samples = page.family(&families::RING_ACTIVE);
    for upstream in upstreams {
        for (member, index) in upstream.cluster.members().iter().zip(0..) {
            let active = active_part(member, upstream.cluster.ring().points_of(index));
            samples.sample(&[&*upstream.config.name, member.id.as_str()], active);
        }
    }
    let mut samples = page.family(&families::TABLE_ENTRIES);
    for upstream in upstreams {
        if let Some(table) = upstream.table() {
            samples.sample(&[&*upstream.config.name], table.len());
        }
    }
    let mut samples = page.family(&families::TABLE_MAX_ENTRIES);
    for upstream in upstreams {
        if let Some(table) = upstream.table() {
            samples.sample(&[&*upstream.config.name], table.max_entries());
        }
    }
}

/// Returns the fraction of a member's points that is active: greater than 0, at most 1.
pub(crate) fn active_part(member: &Member, points: u32) -> f64 {
    let points = points.max(1);
    f64::from(member.active_points.clamp(1, points)) / f64::from(points)
}
