//! The one place where errors of Postgres and its driver become decisions: try again, refuse, or tell the operator.

use std::future::Future;

use muster_shared::store::StoreError;

/// Why a transaction did not happen.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The database is away, or the outcome of the commit is unknown.
    Unavailable(String),
    /// Rolled back for the sake of another transaction: the same again will do.
    Contention(String),
    /// The data cannot be stored.
    Refused(String),
    /// Anything else.
    Store(StoreError),
}

impl Failure {
    /// The reason, without its class.
    pub(super) fn why(self) -> String {
        match self {
            Self::Unavailable(why) | Self::Contention(why) | Self::Refused(why) => why,
            Self::Store(error) => error.to_string(),
        }
    }
}

/// How often a transaction that lost a deadlock is begun again.
const ATTEMPTS: u32 = 5;

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(why) | Failure::Contention(why) => Self::Unavailable(why),
            Failure::Refused(why) => Self::Refused(why),
            Failure::Store(error) => error,
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(inner) => by_code(inner.code().as_deref().unwrap_or_default(), inner.message()),
            sqlx::Error::Encode(why) => Self::Refused(why.to_string()),
            sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_) => Self::Store(StoreError::Corrupt(error.to_string())),
            // The pool tries until its patience ends, and does not say what stood in the way.
            sqlx::Error::PoolTimedOut => {
                Self::Unavailable("no connection to the database in time: it is down, or all connections are in use".to_owned())
            }
            // Configuration, TLS, IO, protocol, pool: nothing that the caller sent can be at fault.
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// By SQLSTATE (appendix A of the Postgres manual): the code decides, never the text.
fn by_code(code: &str, message: &str) -> Failure {
    let told = format!("{message} (SQLSTATE {code})");
    match (code, code.get(..2).unwrap_or_default()) {
        // serialization_failure, deadlock_detected
        ("40001" | "40P01", _) => Failure::Contention(told),
        // undefined_table, undefined_column, undefined_function: an older or newer schema
        ("42P01" | "42703" | "42883", _) => Failure::Store(StoreError::Schema(told)),
        // data exception, integrity constraint violation, program limit exceeded
        (_, "22" | "23" | "54") => Failure::Refused(told),
        // connection exception, insufficient resources, lock not available, operator intervention, and the rest
        (..) => Failure::Unavailable(told),
    }
}

/// Whether a unique constraint refused it.
pub(crate) fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("23505"))
}

/// Begins a transaction again when it was rolled back for the sake of another.
pub(crate) async fn retrying<T, F: Future<Output = Result<T, Failure>>>(mut attempt: impl FnMut() -> F) -> Result<T, Failure> {
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match attempt().await {
            Err(Failure::Contention(why)) if left > 0 => tracing::debug!(why, "transaction begun again"),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_what_becomes_of_an_error() {
        assert!(matches!(by_code("40P01", "deadlock detected"), Failure::Contention(_)));
        assert!(matches!(by_code("22P05", "untranslatable character"), Failure::Refused(_)));
        assert!(matches!(by_code("23514", "check"), Failure::Refused(_)));
        assert!(matches!(by_code("57P01", "terminating connection"), Failure::Unavailable(_)));
        assert!(matches!(by_code("42P01", "no such table"), Failure::Store(StoreError::Schema(_))));
        assert!(matches!(by_code("", ""), Failure::Unavailable(_)));
    }

    #[tokio::test]
    async fn a_transaction_that_always_loses_is_given_up() {
        let mut attempts = 0;
        let result: Result<(), Failure> = retrying(|| {
            attempts += 1;
            async { Err(Failure::Contention("again".to_owned())) }
        })
        .await;
        assert!(matches!(result, Err(Failure::Contention(_))));
        assert_eq!(attempts, ATTEMPTS);
    }
}
