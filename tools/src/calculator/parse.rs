//! Recursive descent over an expression, evaluated as it is read. Length and depth are bounded before and
//! while it recurses, so that no input can exhaust the stack.
//!
//! ```text
//! sum     = product (('+' | '-') product)*
//! product = sign (('*' | '/' | '%') sign)*
//! sign    = ('-' | '+') sign | power            -2^2 is -4
//! power   = atom ('^' sign)?                    2^3^2 is 2^9
//! atom    = number | '(' sum ')' | name '(' sum (',' sum)* ')'
//! ```

/// Characters of an expression at most.
pub(crate) const MAX_CHARS: usize = 1_000;

/// Parentheses, signs and powers within each other at most.
const MAX_DEPTH: usize = 64;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalcError {
    /// It is too long.
    #[error("the expression is longer than {MAX_CHARS} characters")]
    TooLong,
    /// It is no expression.
    #[error("at character {at}: {what}")]
    Syntax {
        /// Position, from 1.
        at: usize,
        /// What was wanted or found.
        what: String,
    },
    /// It nests too deep.
    #[error("the expression is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// It divides by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// Some value in it is too large, or is no real number.
    #[error("the result, or a value on the way to it, is too large or is not a real number")]
    NotFinite,
}

/// The value of an arithmetic expression.
pub fn evaluate(expression: &str) -> Result<f64, CalcError> {
    let text: Vec<char> = expression.chars().take(MAX_CHARS + 1).collect();
    if text.len() > MAX_CHARS {
        return Err(CalcError::TooLong);
    }
    let mut reader = Reader { text: &text, at: 0, depth: 0 };
    let value = reader.sum()?;
    match reader.peek() {
        None => Ok(value),
        Some(c) => Err(reader.wrong(format!("`{}` was not expected", c.escape_debug()))),
    }
}

struct Reader<'a> {
    text: &'a [char],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    /// The next character that is no white space.
    fn peek(&mut self) -> Option<char> {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn wrong(&self, what: impl Into<String>) -> CalcError {
        CalcError::Syntax { at: self.at + 1, what: what.into() }
    }

    fn expect(&mut self, wanted: char) -> Result<(), CalcError> {
        if self.take(wanted) { Ok(()) } else { Err(self.wrong(format!("`{wanted}` was expected"))) }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<f64, CalcError>) -> Result<f64, CalcError> {
        if self.depth == MAX_DEPTH {
            return Err(CalcError::TooDeep);
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn sum(&mut self) -> Result<f64, CalcError> {
        let mut value = self.product()?;
        loop {
            if self.take('+') {
                value = finite(value + self.product()?)?;
            } else if self.take('-') {
                value = finite(value - self.product()?)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<f64, CalcError> {
        let mut value = self.sign()?;
        loop {
            if self.take('*') {
                value = finite(value * self.sign()?)?;
            } else if self.take('/') {
                value = finite(value / divisor(self.sign()?)?)?;
            } else if self.take('%') {
                value = finite(value % divisor(self.sign()?)?)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn sign(&mut self) -> Result<f64, CalcError> {
        if self.take('-') {
            Ok(-self.nested(Self::sign)?)
        } else if self.take('+') {
            self.nested(Self::sign)
        } else {
            self.power()
        }
    }

    fn power(&mut self) -> Result<f64, CalcError> {
        let base = self.atom()?;
        if !self.take('^') {
            return Ok(base);
        }
        let exponent = self.nested(Self::sign)?;
        if base == 0.0 && exponent < 0.0 {
            return Err(CalcError::DivisionByZero);
        }
        finite(base.powf(exponent))
    }

    fn atom(&mut self) -> Result<f64, CalcError> {
        match self.peek() {
            Some('(') => {
                self.at += 1;
                let value = self.nested(Self::sum)?;
                self.expect(')')?;
                Ok(value)
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some(c) if c.is_ascii_alphabetic() => self.function(),
            Some(c) => Err(self.wrong(format!("a number, a function or `(` was expected, not `{}`", c.escape_debug()))),
            None => Err(self.wrong("a number, a function or `(` was expected, but the expression ends")),
        }
    }

    /// `12`, `1.5`, `.5`, `1e3`, `2.5E-3`.
    fn number(&mut self) -> Result<f64, CalcError> {
        let start = self.at;
        self.digits();
        if self.text.get(self.at) == Some(&'.') {
            self.at += 1;
            self.digits();
        }
        if matches!(self.text.get(self.at), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.text.get(self.at + 1), Some('+' | '-')));
            if self.text.get(self.at + 1 + sign).is_some_and(char::is_ascii_digit) {
                self.at += 1 + sign;
                self.digits();
            }
        }
        let text: String = self.text[start..self.at].iter().collect();
        let value = text.parse::<f64>().map_err(|_| CalcError::Syntax { at: start + 1, what: format!("`{text}` is not a number") })?;
        finite(value)
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(char::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn function(&mut self) -> Result<f64, CalcError> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(char::is_ascii_alphanumeric) {
            self.at += 1;
        }
        let name: String = self.text[start..self.at].iter().collect();
        let unknown = |what: String| CalcError::Syntax { at: start + 1, what };
        let one: fn(f64) -> f64 = match name.as_str() {
            "min" => return self.fold(f64::min),
            "max" => return self.fold(f64::max),
            "sqrt" => f64::sqrt,
            "abs" => f64::abs,
            "round" => f64::round,
            "floor" => f64::floor,
            "ceil" => f64::ceil,
            "ln" => f64::ln,
            "log10" => f64::log10,
            "sin" => f64::sin,
            "cos" => f64::cos,
            _ => return Err(unknown(format!("there is no `{name}`; there are sqrt abs min max round floor ceil ln log10 sin cos"))),
        };
        self.expect('(')?;
        let argument = self.nested(Self::sum)?;
        self.expect(')')?;
        finite(one(argument))
    }

    /// One or more arguments, folded into one value.
    fn fold(&mut self, fold: fn(f64, f64) -> f64) -> Result<f64, CalcError> {
        self.expect('(')?;
        let mut value = self.nested(Self::sum)?;
        while self.take(',') {
            value = fold(value, self.nested(Self::sum)?);
        }
        self.expect(')')?;
        Ok(value)
    }
}

fn finite(value: f64) -> Result<f64, CalcError> {
    if value.is_finite() { Ok(value) } else { Err(CalcError::NotFinite) }
}

fn divisor(value: f64) -> Result<f64, CalcError> {
    if value == 0.0 { Err(CalcError::DivisionByZero) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expressions_have_the_value_that_a_mathematician_gives_them() {
        let cases = [
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("10 - 4 - 3", 3.0),
            ("2 / 4 / 2", 0.25),
            ("7 % 4 * 2", 6.0),
            ("-7 % 4", -3.0),
            ("2 ^ 3 ^ 2", 512.0),
            ("-2 ^ 2", -4.0),
            ("(-2) ^ 2", 4.0),
            ("2 ^ -1", 0.5),
            ("--3", 3.0),
            ("3 - -2 + +1", 6.0),
            (".5 + 1.", 1.5),
            ("1.5e3 + 2E-1", 1500.2),
            ("sqrt(16) + abs(-3)", 7.0),
            ("min(3, 1, 2) + max(5) * round(2.5)", 16.0),
            ("floor(-1.5) + ceil(1.2)", 0.0),
            ("ln(1) + log10(1000) + sin(0) + cos(0)", 4.0),
            ("\t12\n", 12.0),
        ];
        for (expression, value) in cases {
            assert_eq!(evaluate(expression), Ok(value), "{expression}");
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        assert_eq!(evaluate("1 / 0"), Err(CalcError::DivisionByZero));
        assert_eq!(evaluate("1 % (2 - 2)"), Err(CalcError::DivisionByZero));
        assert_eq!(evaluate("0 ^ -1"), Err(CalcError::DivisionByZero));
        for expression in ["10 ^ 400", "sqrt(-1)", "ln(0)", "1e999", "(-8) ^ 0.5", "1e308 * 10"] {
            assert_eq!(evaluate(expression), Err(CalcError::NotFinite), "{expression}");
        }
        let cases = [
            ("", 1),
            ("1 +", 4),
            ("(1", 3),
            ("1 2", 3),
            ("foo(1)", 1),
            ("sqrt 4", 6),
            ("min()", 5),
            ("1..2", 3),
            (".", 1),
            ("2x", 2),
            ("1e", 2),
            ("sqrt(1, 2)", 7),
            ("1;", 2),
            ("１", 1),
        ];
        for (expression, at) in cases {
            match evaluate(expression) {
                Err(CalcError::Syntax { at: found, .. }) => assert_eq!(found, at, "{expression}"),
                other => panic!("{expression}: {other:?}"),
            }
        }
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(evaluate(&nested(64)), Ok(1.0));
        assert_eq!(evaluate(&nested(65)), Err(CalcError::TooDeep));
        assert_eq!(evaluate(&format!("{}1", "-".repeat(65))), Err(CalcError::TooDeep));
        assert_eq!(evaluate(&["1"; 66].join("^")), Err(CalcError::TooDeep));
        assert_eq!(evaluate(&["1"; 400].join("+")), Ok(400.0));
        assert_eq!(evaluate(&"1".repeat(MAX_CHARS + 1)), Err(CalcError::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = evaluate(&text);
        }

        #[test]
        fn no_jumble_of_its_own_words_makes_it_panic_and_every_value_is_finite(
            words in proptest::collection::vec(
                prop_oneof![
                    Just("("), Just(")"), Just("+"), Just("-"), Just("*"), Just("/"), Just("%"), Just("^"), Just(","), Just("sqrt("),
                    Just("min("), Just("ln("), Just("0"), Just("1.5"), Just("9e99"), Just(" "),
                ],
                0..120,
            )
        ) {
            if let Ok(value) = evaluate(&words.concat()) {
                prop_assert!(value.is_finite());
            }
        }

        #[test]
        fn sums_and_products_agree_with_the_machine(a in -1e6_f64..1e6, b in -1e6_f64..1e6, c in 0.1_f64..1e3) {
            prop_assert_eq!(evaluate(&format!("({a} + {b}) * {c} - {a} / {c}")), Ok((a + b) * c - a / c));
        }
    }
}
