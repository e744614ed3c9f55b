//! Every error that the API answers: its stable code, its HTTP status, its form. The only place that maps
//! errors to HTTP. `docs/errors.md` explains each code; a test keeps the two in step.

use std::collections::BTreeMap;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_control::SpawnError;
use muster_shared::{
    error::{Fault, Faults},
    store::StoreError,
    wire::Problem,
};
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{Content, Ref, RefOr, response::ResponseBuilder},
};

/// The media type of every error (RFC 9457).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which a client may try again what failed because something was away.
const RETRY_AFTER_SECONDS: u32 = 1;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        /// The stable codes of problems.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it is sent.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The code in words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    BadJson = "bad_json", BAD_REQUEST, "The body is not valid JSON";
    /// The body is not UTF-8.
    BadUtf8 = "bad_utf8", BAD_REQUEST, "The body is not valid UTF-8";
    /// The body could not be read to its end.
    BadBody = "bad_body", BAD_REQUEST, "The body could not be read";
    /// An identifier is malformed, or of another kind.
    BadId = "bad_id", BAD_REQUEST, "The identifier is malformed or of another kind";
    /// A query parameter is unknown or out of bounds.
    BadQuery = "bad_query", BAD_REQUEST, "The query string is not understood";
    /// The `Idempotency-Key` header is malformed.
    BadIdempotencyKey = "bad_idempotency_key", BAD_REQUEST, "The Idempotency-Key header is malformed";
    /// There is no such path.
    RouteNotFound = "route_not_found", NOT_FOUND, "There is no such route";
    /// There is no such thing.
    NotFound = "not_found", NOT_FOUND, "There is no such thing";
    /// The path has other methods.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request did not arrive in time";
    /// It contradicts what is there.
    Conflict = "conflict", CONFLICT, "The request contradicts the present state";
    /// The key was used with another request.
    IdempotencyKeyReused = "idempotency_key_reused", CONFLICT, "The idempotency key was used with another request";
    /// The run ended without an answer: it failed.
    RunFailed = "run_failed", CONFLICT, "The run failed";
    /// The run ended without an answer: it was cancelled.
    RunCancelled = "run_cancelled", CONFLICT, "The run was cancelled";
    /// The run ended without an answer: its deadline passed.
    RunTimeout = "run_timeout", CONFLICT, "The run ran out of time";
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body is not declared as JSON.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body must be declared as application/json";
    /// The body is JSON, but not of the required form.
    BodyInvalid = "body_invalid", UNPROCESSABLE_ENTITY, "The body does not have the required form";
    /// The template has faults.
    TemplateInvalid = "template_invalid", UNPROCESSABLE_ENTITY, "The template is not valid";
    /// The spawn request has faults.
    SpawnInvalid = "spawn_invalid", UNPROCESSABLE_ENTITY, "The spawn request is not valid";
    /// The data cannot be stored.
    DataRefused = "data_refused", UNPROCESSABLE_ENTITY, "The data cannot be stored";
    /// Something failed inside; the body reveals nothing.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something failed inside Muster";
    /// The database cannot be reached.
    DatabaseUnavailable = "database_unavailable", SERVICE_UNAVAILABLE, "The database is unavailable";
    /// The database has another schema.
    SchemaMismatch = "schema_mismatch", SERVICE_UNAVAILABLE, "The database has a schema that this binary does not know";
    /// The answer was not ready in time.
    AnswerTimeout = "answer_timeout", GATEWAY_TIMEOUT, "The answer was not ready in time";
}

impl Code {
    /// Whether the rest of the body is still on its way when the answer is sent: the connection cannot be used again.
    const fn leaves_body_unread(self) -> bool {
        matches!(self, Self::BodyTooLarge | Self::RequestTimeout | Self::BadBody)
    }

    /// Whether the same request may succeed a moment later.
    const fn is_passing(self) -> bool {
        matches!(self, Self::DatabaseUnavailable | Self::SchemaMismatch | Self::AnswerTimeout)
    }
}

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    code: Code,
    detail: String,
    faults: Vec<Fault>,
}

impl ApiError {
    /// An error with what happened and what to do about it.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), faults: Vec::new() }
    }

    /// An error with every fault that was found.
    pub(crate) fn faulty(code: Code, faults: Faults) -> Self {
        let detail = match faults.0.as_slice() {
            [Fault { pointer, detail }] if pointer.is_empty() => detail.clone(),
            [Fault { pointer, detail }] => format!("{pointer}: {detail}"),
            several => format!("{} faults were found", several.len()),
        };
        Self { code, detail, faults: faults.0 }
    }

    /// An error inside: the log has the reason, the client does not.
    pub(crate) fn internal(reason: &dyn std::fmt::Display) -> Self {
        tracing::error!(%reason, "a request failed inside");
        Self::new(Code::Internal, "The error is logged under the id in the X-Request-Id header of this answer.")
    }

    /// What a refused template or spawn is to its client.
    pub(crate) fn refused(code: Code, error: SpawnError) -> Self {
        match error {
            SpawnError::Invalid(faults) => Self::faulty(code, faults),
            SpawnError::UnknownTemplate(what) => Self::new(Code::NotFound, what),
            SpawnError::Store(error) => error.into(),
        }
    }

    /// What a failed reading of a page is to its client: the only data in it is the cursor.
    pub(crate) fn of_page(error: StoreError) -> Self {
        match error {
            StoreError::Refused(_) => Self::new(Code::BadQuery, "`after` is not a cursor of this listing: give `next` of the page before"),
            other @ (StoreError::Unavailable(_)
            | StoreError::NotFound(_)
            | StoreError::Conflict(_)
            | StoreError::KeyReused(_)
            | StoreError::Schema(_)
            | StoreError::Corrupt(_)) => other.into(),
        }
    }

    /// The body of the answer.
    pub(crate) fn problem(self) -> Problem {
        Problem {
            kind: format!("/docs/errors#{}", self.code.as_str()),
            code: self.code.as_str().to_owned(),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            detail: self.detail,
            faults: self.faults,
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => {
                tracing::warn!(%reason, "the database is unavailable");
                Self::new(Code::DatabaseUnavailable, "Try again; a spawn that carries an Idempotency-Key is made once at most.")
            }
            StoreError::Schema(reason) => {
                tracing::error!(%reason, "the database has another schema");
                Self::new(
                    Code::SchemaMismatch,
                    "Run `muster migrate` with this version, or start the version that the database was migrated for.",
                )
            }
            StoreError::Corrupt(reason) => Self::internal(&reason),
            StoreError::NotFound(what) => Self::new(Code::NotFound, format!("there is no {what}")),
            StoreError::Conflict(why) => Self::new(Code::Conflict, why),
            // The reason may be the database's own words: they stay in the log.
            StoreError::Refused(reason) => {
                tracing::warn!(%reason, "the database refused the data");
                Self::new(
                    Code::DataRefused,
                    "It would be refused every time: it holds NUL, or something beyond a bound. The log has the reason under the id in X-Request-Id.",
                )
            }
            StoreError::KeyReused(key) => {
                Self::new(Code::IdempotencyKeyReused, format!("the key `{key}` was used before with another request; use a new key"))
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = self.code;
        let body = serde_json::to_vec(&self.problem()).expect("problems hold only strings and numbers");
        let mut response = (code.status(), [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        if code.leaves_body_unread() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if code.is_passing() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// What every endpoint may answer beside its own answers, for the OpenAPI document.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let schema = Ref::from_schema_name(Problem::name());
        let response = ResponseBuilder::new()
            .description("A problem (RFC 9457): `code` is stable and explained under `type`.")
            .content(PROBLEM_JSON, Content::new(Some(RefOr::Ref(schema))))
            .build();
        BTreeMap::from([("default".to_owned(), RefOr::T(response))])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_of_errors_has_a_section_with_the_status_of_every_code_and_no_other() {
        let page = include_str!("../../docs/errors.md");
        let sections: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(sections, codes);
        for code in Code::ALL {
            let wanted = format!("## {}\n\n{} · {}", code.as_str(), code.status().as_u16(), code.title());
            assert!(page.contains(&wanted), "docs/errors.md should have:\n{wanted}");
        }
    }

    #[test]
    fn the_words_of_the_database_about_refused_data_stay_inside() {
        let problem = ApiError::from(StoreError::Refused("CHECK constraint failed: agent_instances".into())).problem();
        assert_eq!((problem.status, problem.code.as_str()), (422, "data_refused"));
        assert!(!problem.detail.contains("agent_instances"), "{problem:?}");
    }

    #[test]
    fn a_server_error_reveals_nothing_of_its_reason() {
        let secret = "password=hunter2 at 10.0.0.7";
        for error in [StoreError::Unavailable(secret.into()), StoreError::Schema(secret.into()), StoreError::Corrupt(secret.into())] {
            let problem = ApiError::from(error).problem();
            assert!(problem.status >= 500, "{problem:?}");
            assert!(!serde_json::to_string(&problem).unwrap().contains("hunter2"), "{problem:?}");
        }
    }

    #[test]
    fn what_is_away_says_when_to_try_again() {
        let response = ApiError::from(StoreError::Unavailable("gone".into())).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
    }

    #[test]
    fn a_connection_with_an_unread_body_is_not_offered_again() {
        let response = ApiError::new(Code::BodyTooLarge, "x").into_response();
        assert_eq!(response.headers()[header::CONNECTION], "close");
        assert!(!ApiError::new(Code::BadJson, "x").into_response().headers().contains_key(header::CONNECTION));
    }

    #[test]
    fn the_detail_of_a_single_fault_says_where_it_is() {
        let problem = |pointer: &str| ApiError::faulty(Code::SpawnInvalid, Faults(vec![Fault::new(pointer, "is empty")])).problem();
        assert_eq!((problem("/task").detail, problem("").detail), ("/task: is empty".to_owned(), "is empty".to_owned()));
    }

    #[test]
    fn an_error_inside_an_agent_template_keeps_every_fault() {
        let faults = Faults(vec![Fault::new("/models", "is empty"), Fault::new("/name", "is missing")]);
        let problem = ApiError::refused(Code::TemplateInvalid, SpawnError::Invalid(faults.clone())).problem();
        assert_eq!((problem.status, problem.faults), (422, faults.0));
        assert_eq!(problem.kind, "/docs/errors#template_invalid");
    }
}
