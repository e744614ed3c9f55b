//! The log's monthly partitions on Postgres.

use std::time::Duration;

use muster_shared::store::{Claims as _, StoreError};
use muster_store::testing::TestDatabase;
use sqlx::{Connection as _, PgConnection, Row as _};

/// An entry of a run that begins now; answers where it went and where it belongs.
const RUN_OF_THIS_MONTH: &str = "
WITH one AS (
  INSERT INTO agent_events (run_id, instance_id, seq, epoch, type, payload, at, hash)
  SELECT (substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7000-8000-000000000000')::uuid, gen_random_uuid(), 1, 1, 'model', '{}', now(), ''
  FROM (SELECT lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') AS h) AS v7
  RETURNING tableoid::regclass::text AS partition)
SELECT partition, to_char(now() AT TIME ZONE 'UTC', '\"agent_events_\"YYYY_MM') AS expected FROM one";

async fn partitions(connection: &mut PgConnection) -> Vec<String> {
    let rows =
        sqlx::query("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'agent_events'::regclass ORDER BY 1")
            .fetch_all(connection)
            .await
            .expect("the catalogue is readable");
    rows.iter().map(|row| row.get("name")).collect()
}

#[tokio::test]
async fn room_is_made_for_the_months_ahead_and_making_it_again_is_harmless() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(&database.url).await.expect("the test database is there");
    let fresh = partitions(&mut connection).await;
    assert_eq!(fresh.len(), 4, "three months and the default: {fresh:?}");

    // As after two months without a maintainer.
    for name in &fresh[1..3] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TABLE {name}"))).execute(&mut connection).await.expect("it was there");
    }
    for _ in 0..2 {
        database.store.make_room().await.expect("the store is there");
        assert_eq!(partitions(&mut connection).await, fresh);
    }
}

#[tokio::test]
async fn a_run_of_this_month_goes_into_its_partition() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(&database.url).await.expect("the test database is there");
    let row = sqlx::query(RUN_OF_THIS_MONTH).fetch_one(&mut connection).await.expect("it is inserted");
    assert_eq!(row.get::<String, _>("partition"), row.get::<String, _>("expected"));
}

/// Takes the room of three months away and answers how it was.
async fn without_room(connection: &mut PgConnection) -> Vec<String> {
    let fresh = partitions(connection).await;
    for name in &fresh[..3] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TABLE {name}"))).execute(&mut *connection).await.expect("it was there");
    }
    fresh
}

#[tokio::test]
async fn a_month_that_has_begun_in_the_default_partition_stays_there_and_the_others_get_their_room() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(&database.url).await.expect("the test database is there");
    let fresh = without_room(&mut connection).await;
    sqlx::query(RUN_OF_THIS_MONTH).execute(&mut connection).await.expect("it is inserted");
    for _ in 0..2 {
        assert_eq!(database.store.make_room().await, Ok(()));
        assert_eq!(partitions(&mut connection).await, fresh[1..]);
    }
}

#[tokio::test]
async fn making_room_gives_way_to_a_long_reader_so_that_no_append_stands_behind_it() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(&database.url).await.expect("the test database is there");
    let fresh = without_room(&mut connection).await;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM agent_events").execute(&mut connection).await.expect("it is read");
    let made = tokio::time::timeout(Duration::from_secs(5), database.store.make_room()).await.expect("it gives up soon");
    assert!(matches!(made, Err(StoreError::Unavailable(_))), "{made:?}");
    sqlx::raw_sql("COMMIT").execute(&mut connection).await.expect("the reader ends");
    assert_eq!(database.store.make_room().await, Ok(()));
    assert_eq!(partitions(&mut connection).await, fresh);
}
