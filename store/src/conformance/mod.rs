//! One suite of behaviour for every store: what the traits of `muster_shared::store` promise, asserted through
//! the traits alone. A case gets a fresh, migrated database of its own; [`conformance!`](crate::conformance)
//! lists all cases once and makes a test of each. Where time matters, spans of zero stand for "long ago", so that
//! no case waits. The few things that no trait can do yet (pausing a run, child groups, another schema) go through
//! [`Database`], behind the store's back.

mod bed;
mod invariants;

pub mod append;
pub mod cancel;
pub mod catalog;
pub mod claim;
pub mod ending;
pub mod failing;
pub mod grant;
pub mod reads;
pub mod schema;
pub mod spawn;
pub mod trees;
pub mod waiting;
pub mod workers;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use muster_shared::store::Store;
use uuid::Uuid;

pub use invariants::check_invariants;

/// A fresh, migrated database with a store over it, for one case.
#[async_trait]
pub trait Database: Send + Sync {
    /// The store under test.
    fn store(&self) -> Arc<dyn Store>;

    /// Executes a statement behind the store's back; answers how many rows changed.
    async fn execute(&self, sql: &str) -> u64;

    /// The one number that a query answers, behind the store's back.
    async fn number(&self, sql: &str) -> i64;

    /// An id as a literal of this database's SQL.
    fn literal(&self, id: Uuid) -> String;

    /// A column of times, so much earlier, as an expression of this database's SQL.
    fn earlier(&self, column: &str, by: Duration) -> String;
}

/// Makes a test of every case, in a module named after the database. `$open` is the path of an async function
/// without arguments that answers a [`Database`](crate::conformance::Database).
#[macro_export]
macro_rules! conformance {
    ($name:ident, $open:path) => {
        mod $name {
            $crate::conformance! { @modules $open;
                spawn {
                    a_spawn_makes_a_queued_instance_for_every_task,
                    a_spawn_of_one_answers_its_instance,
                    a_spawn_of_nothing_is_completed_at_once,
                    a_small_spawn_is_granted_within_max_parallel,
                    a_large_spawn_is_stored_whole_and_left_to_the_dispatcher,
                    the_same_key_and_request_replays_what_was_made,
                    the_same_key_with_another_request_is_refused,
                    racing_spawns_with_one_key_make_one_run,
                    contents_are_stored_once_by_their_hash,
                    a_task_with_a_nul_is_refused_and_nothing_is_stored,
                }
                claim {
                    a_claim_takes_what_is_granted_and_raises_the_epoch,
                    an_instance_is_claimed_once_however_many_try,
                    what_is_not_granted_is_not_claimed,
                    an_older_core_claims_nothing_newer,
                    nothing_of_a_cancelled_run_is_claimed,
                    nothing_of_a_run_that_has_ended_is_claimed,
                    a_worker_that_was_declared_dead_claims_nothing,
                    nothing_of_a_paused_run_is_granted_or_claimed,
                    logs_are_read_in_the_order_asked_and_match_the_claim,
                    a_log_that_moved_on_is_a_conflict,
                }
                append {
                    an_append_lengthens_the_log_and_moves_the_projection,
                    a_lost_lease_drops_out_and_harms_nobody_else,
                    a_write_whose_outcome_was_unknown_is_recognised,
                    a_terminal_write_is_recognised_and_its_consequences_happen_once,
                    nul_and_oversize_are_refused_alone,
                    what_the_database_refuses_is_found_by_halving,
                    two_writes_to_one_instance_follow_each_other,
                    two_hundred_appends_fit_into_one_batch,
                }
                waiting {
                    a_wait_gives_the_lease_and_the_grant_back,
                    a_wake_before_the_wait_leaves_the_instance_due,
                    children_that_finish_after_the_wait_wake_their_parent,
                    children_that_finish_before_the_wait_leave_the_parent_due,
                    a_timer_wakes_when_its_moment_has_passed,
                    the_timer_that_is_longest_due_wakes_first,
                    a_release_keeps_the_grant_and_is_pushed_again,
                }
                ending {
                    a_completed_instance_keeps_its_output_and_nothing_follows,
                    a_run_of_one_ends_with_its_instance,
                    the_class_of_a_failure_decides_the_status,
                    the_first_outcome_of_a_run_stays,
                }
                trees {
                    every_order_makes_the_same_tree_and_answer,
                    children_of_one_node_in_one_batch_are_counted_each,
                    concurrent_arrivals_fire_every_reducer_once,
                    a_reducer_takes_over_the_grant_of_the_child_that_filled_its_node,
                    a_group_without_a_reducer_only_collects,
                }
                failing {
                    one_failure_fails_a_fail_fast_run_and_the_cascade_ends_the_rest,
                    what_is_tolerated_does_not_fail_the_run,
                    one_failure_more_than_tolerated_fails_the_run,
                    a_chunk_of_failures_passes_up_empty_without_a_reducer,
                    a_run_whose_failures_are_all_tolerated_completes_without_a_result,
                    a_failed_reducer_loses_the_leaves_below_it,
                    no_leaf_is_counted_as_failed_twice,
                }
                cancel {
                    a_cancelled_run_ends_when_its_last_holder_lets_go,
                    a_cascade_keeps_to_its_limit_and_goes_on,
                    no_reducer_enters_a_cancelled_run,
                    cancelling_an_unheld_instance_ends_it_with_all_consequences,
                    cancelling_a_held_instance_flags_it,
                    a_flagged_instance_whose_owner_died_is_ended_by_the_cascade,
                    a_passed_deadline_ends_the_run_as_timeout,
                    waiting_instances_are_ended_by_the_cascade,
                    a_failed_run_closes_when_its_held_instances_have_ended,
                    runs_that_wait_for_their_holders_hold_up_no_other,
                    an_append_tells_that_its_run_is_cancelled,
                }
                grant {
                    a_higher_priority_goes_first,
                    runs_of_one_priority_share_the_window,
                    max_parallel_holds_and_the_rest_goes_to_others,
                    the_window_follows_the_slots_of_live_workers,
                    reducers_are_granted_before_leaves,
                    nothing_is_granted_to_a_run_that_is_over,
                    old_grants_are_pushed_again_and_stamped_anew,
                    one_holder_at_a_time_is_elected,
                }
                workers {
                    a_heartbeat_tells_the_living_from_the_dead,
                    the_silent_are_buried_once,
                    a_registration_may_be_repeated_until_the_worker_is_dead,
                    the_instances_of_the_dead_are_swept_and_their_writes_refused,
                    deaths_are_counted_at_the_same_position,
                    what_nobody_holds_is_given_back,
                }
                catalog {
                    versions_are_immutable_and_activated_explicitly,
                    templates_are_listed_by_name_with_their_active_version,
                    what_is_not_there_is_named,
                    the_kv_store_is_private_to_an_instance,
                }
                reads {
                    runs_are_listed_newest_first_page_by_page,
                    instances_are_listed_leaves_first_page_by_page,
                    a_log_is_read_page_by_page,
                    outputs_come_in_the_order_asked_without_the_missing,
                    another_team_sees_nothing,
                    demand_counts_what_is_due_held_and_waiting,
                }
                schema {
                    a_newer_database_is_refused,
                    a_database_without_migrations_is_refused,
                }
            }
        }
    };
    (@modules $open:path; $($module:ident { $($case:ident),* $(,)? })*) => {
        $(
            mod $module {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        let database = $open().await;
                        $crate::conformance::$module::$case(&database).await;
                    }
                )*
            }
        )*
    };
}
