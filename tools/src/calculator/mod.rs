//! `calculator`: arithmetic that a model should not do in its head.

mod parse;

use async_trait::async_trait;
use muster_shared::{
    error::{ErrorClass, Retryable},
    gate::Permit,
    tool::{Effect, Tool, ToolError, ToolSpec},
};
use serde::Deserialize;
use serde_json::{Number, Value, json};

use crate::arguments;

pub use parse::{CalcError, evaluate};

/// `calculator {expression} -> {result}`. Pure.
pub struct Calculator {
    spec: ToolSpec,
}

impl Calculator {
    /// The tool.
    pub fn new() -> Self {
        let spec = ToolSpec {
            name: "calculator".to_owned(),
            description: "Evaluates an arithmetic expression in decimal notation. Operators: + - * / % ^ and parentheses. \
                          Functions: sqrt abs min max round floor ceil ln log10 sin cos (radians). Example: (2 + 3) * sqrt(16) / min(4, 5)"
                .to_owned(),
            input_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["expression"],
                "properties": {"expression": {"type": "string", "minLength": 1, "maxLength": parse::MAX_CHARS}},
            }),
            output_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["result"], "properties": {"result": {"type": "number"}},
            }),
            timeout_ms: 1_000,
            effect: Effect::Pure,
        };
        Self { spec }
    }
}

impl Default for Calculator {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Deserialize)]
struct Arguments {
    expression: String,
}

#[async_trait]
impl Tool for Calculator {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, permit: Permit) -> Result<Value, ToolError> {
        let Arguments { expression } = arguments(permit.arguments())?;
        match evaluate(&expression).map(number) {
            Ok(Some(result)) => Ok(json!({"result": result})),
            Ok(None) => Err(refused(&CalcError::NotFinite)),
            Err(error) => Err(refused(&error)),
        }
    }
}

fn refused(error: &CalcError) -> ToolError {
    let (class, code) = match error {
        CalcError::TooLong | CalcError::Syntax { .. } => (ErrorClass::Validation, "invalid_expression"),
        CalcError::TooDeep => (ErrorClass::Validation, "expression_too_deep"),
        CalcError::DivisionByZero => (ErrorClass::Tool, "division_by_zero"),
        CalcError::NotFinite => (ErrorClass::Tool, "result_not_finite"),
    };
    ToolError::new(class, code, error.to_string(), Retryable::Never)
}

/// Whole numbers print as such (`4`, not `4.0`) while every one of them is exact.
fn number(value: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number within 2^53")]
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}
