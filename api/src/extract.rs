//! Extractors whose every refusal is a problem: bodies, identifiers, query parameters.

use std::str::FromStr;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use muster_shared::{
    catalog::{NameOrId, TemplateSelector},
    error::{Fault, Faults},
    ids::BadId,
    store,
    wire::SpawnRequest,
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;

use crate::{
    problem::{ApiError, Code},
    state::ApiState,
};

/// Items of a page unless the request says otherwise.
const DEFAULT_LIMIT: u32 = 100;
/// Items of a page at most.
const MAX_LIMIT: u32 = 1000;
/// A cursor is shorter than this.
const MAX_CURSOR_BYTES: usize = 256;
/// The name of a template is at most this long, and so is every selector but for its version.
const MAX_NAME_BYTES: usize = 64;

/// A type that is read from a request body.
pub(crate) trait Body: DeserializeOwned {
    /// The code when the body is JSON, but not of this form.
    const INVALID: Code;
    /// Whether it is made of named fields.
    const IS_OBJECT: bool = true;
}

impl Body for SpawnRequest {
    const INVALID: Code = Code::SpawnInvalid;
}

impl Body for Value {
    const INVALID: Code = Code::BodyInvalid;
    const IS_OBJECT: bool = false;
}

/// A JSON body.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: Body> FromRequest<ApiState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        parse(&read(request, state).await?).map(Self)
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<T: Body + Default> FromRequest<ApiState> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        let headers = request.headers().clone();
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        check_content_type(&headers)?;
        parse(&bytes).map(Self)
    }
}

/// The whole body, within its limits of size and time.
async fn read(request: Request, state: &ApiState) -> Result<Bytes, ApiError> {
    let limits = state.limits;
    match tokio::time::timeout(limits.body_timeout, Bytes::from_request(request, state)).await {
        Err(_elapsed) => {
            Err(ApiError::new(Code::RequestTimeout, format!("the body did not arrive within {} seconds", limits.body_timeout.as_secs())))
        }
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(ApiError::new(Code::BodyTooLarge, format!("a body may have {} bytes at most", limits.max_body_bytes)))
        }
        Ok(Err(_broken)) => Err(ApiError::new(Code::BadBody, "the connection broke, or the body is not as long as was announced")),
        Ok(Ok(bytes)) => Ok(bytes),
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let declared = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or(""));
    let essence = declared.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let detail = match declared {
        None => "the Content-Type header is missing; it must be application/json".to_owned(),
        Some(other) => format!("the Content-Type is `{}`; it must be application/json", other.chars().take(80).collect::<String>()),
    };
    Err(ApiError::new(Code::UnsupportedMediaType, detail))
}

fn parse<T: Body>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ApiError::new(Code::BadUtf8, format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
    // First whether it is JSON at all, so that a fault of the form never hides a fault of the syntax.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| ApiError::new(Code::BadJson, error.to_string()))?;
    // Serde would take an array for the fields of a struct in their order; no client can mean that.
    if T::IS_OBJECT && text.trim_ascii_start().starts_with('[') {
        return Err(ApiError::faulty(T::INVALID, Faults(vec![Fault::new("", "the body must be an object")])));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| misread(&error, T::INVALID))
}

/// Serde's messages name line and column.
fn misread(error: &serde_path_to_error::Error<serde_json::Error>, invalid: Code) -> ApiError {
    let why = error.inner().to_string();
    if error.inner().is_data() {
        let fault = Fault::new(pointer(error.path()), why);
        return ApiError::faulty(invalid, Faults(vec![fault]));
    }
    ApiError::new(Code::BadJson, why)
}

/// A JSON pointer (RFC 6901) to where serde stopped.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

async fn path_parameter(parts: &mut Parts, state: &ApiState) -> Result<String, ApiError> {
    match Path::<String>::from_request_parts(parts, state).await {
        Ok(Path(text)) => Ok(text),
        Err(_not_utf8) => Err(ApiError::new(Code::BadId, "the path is not valid UTF-8")),
    }
}

/// An identifier in the path.
pub(crate) struct PathId<T>(pub(crate) T);

impl<T: FromStr<Err = BadId>> FromRequestParts<ApiState> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let id = path_parameter(parts, state).await?.parse();
        id.map(Self).map_err(|error: BadId| ApiError::new(Code::BadId, error.to_string()))
    }
}

/// A template in the path: `researcher`, `researcher@3` or `tpl_…`.
pub(crate) struct PathAgent(pub(crate) TemplateSelector);

impl FromRequestParts<ApiState> for PathAgent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        selector(&path_parameter(parts, state).await?).map(Self)
    }
}

fn selector(text: &str) -> Result<TemplateSelector, ApiError> {
    const FORM: &str =
        "a template is named `name`, `name@version`, `tpl_…` or `tpl_…@version`; names have lower-case letters, digits, `-` and `_`";
    let selector: TemplateSelector =
        text.parse().map_err(|why: String| ApiError::new(Code::BadId, why.chars().take(200).collect::<String>()))?;
    let possible = match &selector.which {
        NameOrId::Id(_) => true,
        NameOrId::Name(name) => {
            name.len() <= MAX_NAME_BYTES && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        }
    };
    if possible { Ok(selector) } else { Err(ApiError::new(Code::BadId, FORM)) }
}

/// Query parameters.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(ApiError::new(Code::BadQuery, rejection.body_text())),
        }
    }
}

/// Which part of a listing.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// Items at most: 1 to 1000. Default 100.
    limit: Option<u32>,
    /// `next` of the page before.
    after: Option<String>,
}

impl PageParams {
    /// The page, within bounds.
    pub(crate) fn page(self) -> Result<store::Page, ApiError> {
        let limit = limit(self.limit)?;
        if self.after.as_ref().is_some_and(|cursor| cursor.len() > MAX_CURSOR_BYTES || cursor.chars().any(char::is_control)) {
            return Err(ApiError::new(Code::BadQuery, "`after` is not a cursor: give `next` of the page before"));
        }
        Ok(store::Page { limit, after: self.after.filter(|cursor| !cursor.is_empty()) })
    }
}

/// Which part of a log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogParams {
    /// Events at most: 1 to 1000. Default 100.
    limit: Option<u32>,
    /// Events after this position; 0, the default, is the beginning.
    #[serde(default)]
    after: u32,
}

impl LogParams {
    /// `(after, limit)`, within bounds.
    pub(crate) fn bounds(&self) -> Result<(i64, i64), ApiError> {
        Ok((i64::from(self.after), limit(self.limit)?))
    }
}

fn limit(asked: Option<u32>) -> Result<i64, ApiError> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(i64::from(limit)),
        other => Err(ApiError::new(Code::BadQuery, format!("`limit` is {other}; it must be 1 to {MAX_LIMIT}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_json_is_refused_with_its_line_and_column() {
        let problem = parse::<Value>(b"{\n  \"task\": \n}").expect_err("no value").problem();
        assert_eq!((problem.status, problem.code.as_str()), (400, "bad_json"));
        assert!(problem.detail.contains("line 3 column 1"), "{}", problem.detail);
        assert_eq!(parse::<Value>(b"{} {}").expect_err("two values").problem().code, "bad_json");
        assert_eq!(parse::<Value>(b"").expect_err("nothing").problem().code, "bad_json");
        assert_eq!(parse::<Value>("[".repeat(10_000).as_bytes()).expect_err("too deep").problem().code, "bad_json");
        let endless = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(parse::<Value>(endless.as_bytes()).expect_err("too deep").problem().code, "bad_json");
        assert_eq!(parse::<SpawnRequest>(b"{\"task\": 5, oops}").expect_err("both").problem().code, "bad_json");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused_with_their_position() {
        let problem = parse::<Value>(b"{\"task\": \"\xff\"}").expect_err("not UTF-8").problem();
        assert_eq!((problem.status, problem.code.as_str()), (400, "bad_utf8"));
        assert!(problem.detail.contains("byte 10"), "{}", problem.detail);
    }

    #[test]
    fn a_field_of_the_wrong_form_is_named_by_its_pointer() {
        let cases: [(&str, &str); 4] = [
            (r#"["Look."]"#, ""),
            (r#"{"task": 5}"#, "/task"),
            (r#"{"reduce": {"agent": "s", "chunk_size": -1}}"#, "/reduce/chunk_size"),
            (r#"{"tasks": ["a", 7]}"#, "/tasks/1"),
        ];
        for (body, wanted) in cases {
            let problem = parse::<SpawnRequest>(body.as_bytes()).expect_err("wrong form").problem();
            assert_eq!((problem.status, problem.code.as_str()), (422, "spawn_invalid"), "{body}");
            assert_eq!(problem.faults[0].pointer, wanted, "{body}: {problem:?}");
        }
    }

    #[test]
    fn only_json_media_types_are_accepted() {
        for (declared, accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("text/json", false),
            ("text/plain", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, declared.parse().unwrap())]);
            assert_eq!(check_content_type(&headers).is_ok(), accepted, "{declared}");
        }
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }

    #[test]
    fn a_selector_that_no_template_can_have_is_refused_before_the_store_sees_it() {
        for bad in ["", "a b", "Ä", "x\0y", "Researcher", "r@0", "r@x", "tpl_12", &"a".repeat(65)] {
            assert_eq!(selector(bad).expect_err(bad).problem().code, "bad_id", "{bad}");
        }
        assert!(selector("re-search_er2@3").is_ok());
    }
}
