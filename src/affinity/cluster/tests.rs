//! Tests of the precomputed eligibility.

use super::*;
use crate::affinity::Seed;

fn member(id: &str, slot: u16, weight: u16, admin: AdminState, health: Health, active_points: u32) -> Member {
    let (id, weight) = (id.parse().unwrap(), Weight::new(weight).unwrap());
    Member { id, slot: Slot(slot), weight, admin, health, shunned: false, active_points }
}

fn cluster(members: Vec<Member>) -> Cluster {
    let backends: Vec<_> = members.iter().map(|m| (m.id.clone(), m.weight)).collect();
    Cluster::new(Arc::new(Ring::build(Seed(1), 10, &backends)), members)
}

#[test]
fn only_ready_and_up_members_have_open_points() {
    let cluster = cluster(vec![
        member("a", 4, 1, AdminState::Ready, Health::Up, u32::MAX),
        member("b", 0, 1, AdminState::Ready, Health::Down, u32::MAX),
        member("c", 2, 3, AdminState::Ready, Health::Up, 12),
        member("d", 1, 1, AdminState::Drain, Health::Up, u32::MAX),
        member("e", 9, 1, AdminState::Maint, Health::Up, u32::MAX),
        member("f", 3, 1, AdminState::Ready, Health::Up, 0),
    ]);
    let open: Vec<_> = (0..7).map(|index| cluster.open_points(index)).collect();
    assert_eq!(open, [10, 0, 12, 0, 0, 1, 0]);
    assert_eq!(cluster.total_inviting_points(), 23);
    let drawn: Vec<_> = (0..24).map(|n| cluster.nth_inviting_point(n)).collect();
    let expected = [vec![Some(0); 10], vec![Some(2); 12], vec![Some(5), None]].concat();
    assert_eq!(drawn, expected);
}

#[test]
fn shunned_members_invite_new_sessions_only_if_all_are_shunned() {
    let inviting = |shunned: [bool; 3]| {
        let mut members = vec![
            member("a", 0, 1, AdminState::Ready, Health::Up, 10),
            member("b", 1, 2, AdminState::Ready, Health::Up, 20),
            member("c", 2, 1, AdminState::Drain, Health::Up, 10),
        ];
        for (member, shunned) in members.iter_mut().zip(shunned) {
            member.shunned = shunned;
        }
        let cluster = cluster(members);
        let open: Vec<_> = (0..3).map(|index| cluster.open_points(index)).collect();
        assert_eq!(open, [10, 20, 0], "shunning must not close a point");
        let shuns: Vec<_> = (0..3).map(|index| cluster.shuns(index)).collect();
        let inviting: Vec<_> = (0..3).map(|index| cluster.inviting_points(index)).collect();
        assert_eq!(cluster.total_inviting_points(), inviting.iter().sum::<u32>());
        (inviting, shuns)
    };
    assert_eq!(inviting([false; 3]), (vec![10, 20, 0], vec![false; 3]));
    assert_eq!(inviting([true, false, false]), (vec![0, 20, 0], vec![true, false, false]));
    assert_eq!(inviting([true; 3]), (vec![10, 20, 0], vec![false; 3]));
}

#[test]
fn members_are_found_by_their_slot() {
    let cluster = cluster(vec![
        member("a", 4, 1, AdminState::Ready, Health::Up, 10),
        member("b", 0, 1, AdminState::Ready, Health::Up, 10),
    ]);
    let found: Vec<_> = [0, 1, 4, 5, u16::MAX].map(|slot| cluster.index_of(Slot(slot))).into();
    assert_eq!(found, [Some(1), None, Some(0), None, None]);
}

#[test]
fn empty_cluster_has_no_members() {
    let cluster = cluster(vec![]);
    assert_eq!((cluster.total_inviting_points(), cluster.nth_inviting_point(0)), (0, None));
    assert_eq!(cluster.index_of(Slot(0)), None);
}
