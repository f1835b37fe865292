//! `when`: a condition in CEL over `params`, `stages` and `run`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, ExecutionError, Program, Value as Cel};
use serde_json::Value;
use trainyard_crds::condition::Reason;

use crate::SpecProblem;
use crate::attempts::shortened;

mod cost;

/// Characters of a condition, or of what it is about, that a message has room for.
const SHOWN: usize = 200;

/// A parsed condition.
#[derive(Clone)]
pub(crate) struct Expression {
    program: Arc<Program>,
    source: String,
    /// Stages that it reads.
    pub(crate) stages: BTreeSet<String>,
    /// Parameters that it reads.
    pub(crate) params: BTreeSet<String>,
    /// Results that it reads, by stage.
    pub(crate) results: BTreeSet<(String, String)>,
    /// Metrics that it reads, by stage.
    pub(crate) metrics: BTreeSet<(String, String)>,
    /// Whether it reads `run.phase`.
    pub(crate) run_phase: bool,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

/// What an expression can see.
pub(crate) struct Scope {
    /// `params`.
    pub(crate) params: BTreeMap<String, Value>,
    /// `stages.NAME.{phase,results,metrics}`.
    pub(crate) stages: BTreeMap<String, Value>,
    /// `run`.
    pub(crate) run: BTreeMap<String, Value>,
}

/// Why a condition has no value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoValue {
    /// What it reads that is not there.
    pub(crate) key: Option<String>,
    /// A sentence: it cannot be evaluated, or not to a boolean.
    pub(crate) message: String,
}

impl Expression {
    /// The text that was parsed, as a message has room for it.
    pub(crate) fn source(&self) -> String {
        shortened(&self.source, SHOWN)
    }

    /// Parses a condition and finds what it reads.
    pub(crate) fn parse(source: &str, path: &str) -> Result<Self, SpecProblem> {
        let invalid = |message: String| SpecProblem::new(Reason::InvalidExpression, path, message);
        let operators = cost::operators(source);
        if operators > cost::OPERATORS {
            return Err(invalid(format!(
                "has {operators} operators, and {} are allowed: compute it in a stage that writes a result, and read that",
                cost::OPERATORS
            )));
        }
        let program = Program::compile(source)
            .map_err(|error| invalid(format!("does not parse: {}", error.to_string().replace('\n', " "))))?;
        let mut names = Names::default();
        names.walk_node(program.expression());
        if let Some(unknown) = names.unknown.first() {
            return Err(SpecProblem::new(
                Reason::UnknownReference,
                path,
                format!(
                    "{unknown} does not exist; there are params.NAME, stages.NAME.phase, stages.NAME.results.NAME, stages.NAME.metrics.NAME and run.name (write stages[\"my-stage\"] for a name with a dash)"
                ),
            ));
        }
        if names.whole {
            return Err(invalid(
                "params, stages and run must be followed by a name, such as params.production or stages.train.metrics.accuracy"
                    .into(),
            ));
        }
        let Names { stages, params, results, metrics, run_phase, .. } = names;
        Ok(Self { program: Arc::new(program), source: source.to_owned(), stages, params, results, metrics, run_phase })
    }

    /// The condition's value.
    ///
    /// # Errors
    /// See [`NoValue`].
    pub(crate) fn evaluate(&self, scope: &Scope) -> Result<bool, NoValue> {
        let mut context = Context::default();
        context.add_variable_from_value("params", map(&scope.params));
        context.add_variable_from_value("stages", map(&scope.stages));
        context.add_variable_from_value("run", map(&scope.run));
        let (expression, meter) = cost::metered(self.program.expression(), scope, &mut context);
        let value = if meter.is_over() { Ok(Cel::Null) } else { Cel::resolve(&expression, &context) };
        let source = shortened(&self.source, SHOWN);
        let no_value = |message| Err(NoValue { key: None, message });
        match value {
            _ if meter.is_over() => no_value(format!(
                "`{source}` takes more than {} steps: compare shorter lists, or compute it in a stage that writes a result",
                cost::STEPS
            )),
            Ok(Cel::Bool(value)) => Ok(value),
            Ok(other) => no_value(format!("`{source}` gives a {} and not true or false", other.type_of())),
            Err(ExecutionError::NoSuchKey(key)) => Err(NoValue {
                message: format!("`{source}` cannot be evaluated: no stage has written {}", shortened(&key, SHOWN)),
                key: Some(key.to_string()),
            }),
            Err(error) => no_value(format!("`{source}` cannot be evaluated: {}", shortened(&error.to_string(), SHOWN))),
        }
    }
}

fn map(values: &BTreeMap<String, Value>) -> Cel {
    let entries: std::collections::HashMap<String, Cel> =
        values.iter().map(|(key, value)| (key.clone(), convert(value))).collect();
    entries.into()
}

fn convert(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Cel::Int(integer),
            (None, Some(float)) => Cel::Float(float),
            (None, None) => Cel::Null,
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(convert).collect())),
        Value::Object(entries) => {
            let entries: std::collections::HashMap<String, Cel> =
                entries.iter().map(|(key, value)| (key.clone(), convert(value))).collect();
            entries.into()
        }
    }
}

/// The names that an expression reads, by a walk over its tree.
#[derive(Default)]
struct Names {
    stages: BTreeSet<String>,
    params: BTreeSet<String>,
    results: BTreeSet<(String, String)>,
    metrics: BTreeSet<(String, String)>,
    run_phase: bool,
    unknown: Vec<String>,
    whole: bool,
    bound: Vec<String>,
}

impl Names {
    fn walk_node(&mut self, node: &IdedExpr) {
        self.walk(&node.expr);
    }

    fn walk(&mut self, expression: &Expr) {
        if let Some((root, fields)) = path(expression)
            && !fields.is_empty()
            && !self.bound.iter().any(|bound| bound == root)
        {
            self.member(root, &fields);
            return;
        }
        match expression {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => self.root(name),
            Expr::Select(select) => self.walk_node(&select.operand),
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.walk_node(target);
                }
                call.args.iter().for_each(|argument| self.walk_node(argument));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.walk_node(element)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(structure) => structure.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Comprehension(comprehension) => {
                self.walk_node(&comprehension.iter_range);
                self.walk_node(&comprehension.accu_init);
                let before = self.bound.len();
                self.bound.push(comprehension.iter_var.clone());
                self.bound.extend(comprehension.iter_var2.clone());
                self.bound.push(comprehension.accu_var.clone());
                self.walk_node(&comprehension.loop_cond);
                self.walk_node(&comprehension.loop_step);
                self.walk_node(&comprehension.result);
                self.bound.truncate(before);
            }
        }
    }

    fn entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::StructField(field) => self.walk_node(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.walk_node(&entry.key);
                self.walk_node(&entry.value);
            }
        }
    }

    fn member(&mut self, root: &str, fields: &[&str]) {
        match (root, fields) {
            ("params", [name, ..]) => {
                self.params.insert((*name).to_owned());
            }
            ("stages", [stage, rest @ ..]) => {
                self.stages.insert((*stage).to_owned());
                match rest {
                    [] | ["phase" | "results" | "metrics"] => {}
                    ["results", name, ..] => {
                        self.results.insert(((*stage).to_owned(), (*name).to_owned()));
                    }
                    ["metrics", name, ..] => {
                        self.metrics.insert(((*stage).to_owned(), (*name).to_owned()));
                    }
                    [field, ..] => self.unknown.push(format!("stages.{stage}.{field}")),
                }
            }
            ("run", ["phase"]) => self.run_phase = true,
            ("run", ["name" | "namespace" | "uid" | "pipeline"]) => {}
            (_, [field, ..]) => self.unknown.push(format!("{root}.{field}")),
            (_, []) => {}
        }
    }

    fn root(&mut self, name: &str) {
        if self.bound.iter().any(|bound| bound == name) {
            return;
        }
        match name {
            "stages" | "params" | "run" => self.whole = true,
            _ => self.unknown.push(name.to_owned()),
        }
    }
}

/// An expression that is nothing but a name and fields of it, as in `a.b["c"].d`.
fn path(expression: &Expr) -> Option<(&str, Vec<&str>)> {
    match expression {
        Expr::Ident(root) => Some((root, Vec::new())),
        Expr::Select(select) => {
            let (root, mut fields) = path(&select.operand.expr)?;
            fields.push(&select.field);
            Some((root, fields))
        }
        // `stages["my-stage"]` is a call of the index operator.
        Expr::Call(call) if call.func_name == cel::common::ast::operators::INDEX => match call.args.as_slice() {
            [object, IdedExpr { expr: Expr::Literal(LiteralValue::String(name)), .. }] => {
                let (root, mut fields) = path(&object.expr)?;
                fields.push(name.inner());
                Some((root, fields))
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scope() -> Scope {
        Scope {
            params: BTreeMap::from([
                ("production".into(), json!(true)),
                ("n".into(), json!(3)),
                ("tags".into(), json!(["a", "b"])),
            ]),
            stages: BTreeMap::from([(
                "my-train".into(),
                json!({"phase": "Succeeded", "results": {"rows": 150}, "metrics": {"accuracy": 0.97}}),
            )]),
            run: BTreeMap::from([("name".into(), json!("iris-1"))]),
        }
    }

    fn value(source: &str) -> Result<bool, String> {
        Expression::parse(source, "when").unwrap().evaluate(&scope()).map_err(|no_value| no_value.message)
    }

    #[test]
    fn conditions_over_all_that_there_is() {
        for source in [
            "params.production == true",
            "params.n > 2 && params.n >= 2.5",
            "stages['my-train'].metrics.accuracy > 0.9",
            "stages[\"my-train\"].phase == 'Succeeded' && stages['my-train'].results.rows == 150",
            "params.tags.exists(t, t == 'b')",
            "run.name.startsWith('iris')",
            "'a' in params.tags",
        ] {
            assert_eq!(value(source), Ok(true), "{source}");
        }
        assert_eq!(value("params.n > 3"), Ok(false));
    }

    #[test]
    fn what_is_read_is_known_before_it_runs() {
        let expression =
            Expression::parse("stages.a.phase == 'x' || stages['b-c'].results.r > params.n", "when").unwrap();
        assert_eq!(expression.stages, BTreeSet::from(["a".to_owned(), "b-c".to_owned()]));
        assert_eq!(expression.params, BTreeSet::from(["n".to_owned()]));
        let pair = |stage: &str, name: &str| BTreeSet::from([(stage.to_owned(), name.to_owned())]);
        assert_eq!(expression.results, pair("b-c", "r"));
        let expression = Expression::parse(
            "has(stages.a.metrics.m) && stages.a.metrics['m'] > 1 && stages.a.results.list[0].x == 1 && run.phase == 'Failed'",
            "when",
        )
        .unwrap();
        assert_eq!((expression.metrics, expression.results), (pair("a", "m"), pair("a", "list")));
        assert!(expression.run_phase);
    }

    #[test]
    fn mistakes_have_a_reason() {
        let reason = |source: &str| Expression::parse(source, "spec.stages[0].when").unwrap_err();
        assert_eq!(reason("params.n >").reason, Reason::InvalidExpression);
        assert_eq!(reason("foo.bar == 1").reason, Reason::UnknownReference);
        assert_eq!(reason("production").reason, Reason::UnknownReference);
        assert_eq!(reason("run.age > 3").reason, Reason::UnknownReference);
        assert_eq!(reason("stages.a.state == 'x'").reason, Reason::UnknownReference);
        assert_eq!(reason("size(run) > 3").reason, Reason::InvalidExpression);
        assert_eq!(reason("size(stages) > 1").reason, Reason::InvalidExpression);
        assert!(reason("stages.my-train.phase == 'x'").message.contains("stages[\"my-stage\"]"));
        assert!(value("params.n").unwrap_err().contains("not true or false"));
        assert!(value("stages['my-train'].metrics.f1 > 1.0").unwrap_err().contains("cannot be evaluated"));
    }
    /// What the operator's threads have.
    const STACK: usize = 2 << 20;

    /// What becomes of a condition on a thread of the operator: a value, or why there is none.
    fn on_a_thread(source: String) -> Result<bool, String> {
        let evaluate = move || {
            let parsed = Expression::parse(&source, "when").map_err(|problem| problem.message)?;
            parsed.evaluate(&scope()).map_err(|no_value| no_value.message)
        };
        std::thread::Builder::new().stack_size(STACK).spawn(evaluate).unwrap().join().unwrap()
    }

    #[test]
    fn as_deep_as_allowed_fits_the_stack_and_deeper_is_refused() {
        for (start, one, end) in [
            ("1", " + 1", " > 0"),
            ("true", " && true", ""),
            ("true", " == true", ""),
            ("", "true ? true : ", "true"),
            ("params.tags", "[0]", " == 'a'"),
            ("params.tags", ".a", " == 'a'"),
            ("1", " in [1]", ""),
            ("'a'", ".size()", " > 0"),
            ("", "!", "true"),
        ] {
            let of = |count: usize| format!("{start}{}{end}", one.repeat(count));
            let most = (1..).take_while(|count| cost::operators(&of(*count)) <= cost::OPERATORS).last().unwrap();
            let refused = |result: &Result<bool, String>| result.as_ref().is_err_and(|why| why.contains("are allowed"));
            assert!(!refused(&on_a_thread(of(most))), "{one}");
            assert!(refused(&on_a_thread(of(most + 1))), "{one}");
            assert!(refused(&on_a_thread(of(4096 / one.len()))), "{one}");
        }
        let nested = |open: &str, close: &str| format!("{}{}", open.repeat(100), close.repeat(100));
        for source in [nested("(", ")"), nested("[", "]"), nested("-(", ")"), nested("{1:", "}"), nested("size(", ")")]
        {
            on_a_thread(source).unwrap_err();
        }
    }

    #[test]
    fn a_condition_that_takes_too_long_has_no_value() {
        let numbers = format!("[{}]", ["0"; 10].join(", "));
        let nested = |depth: usize, call: &str| {
            let last = call == "all";
            format!("{}{last}{}", format!("{numbers}.{call}(x, ").repeat(depth), ")".repeat(depth))
        };
        assert_eq!(value(&nested(3, "all")), Ok(true));
        assert_eq!(value(&nested(3, "exists")), Ok(false));
        for source in [
            nested(7, "all"),
            nested(7, "exists"),
            format!("{} == []", nested(7, "map")),
            format!("{numbers}.map(a, {numbers}.map(b, {numbers}.map(c, {numbers}))).all(x, {})", nested(4, "all")),
        ] {
            let why = value(&source).unwrap_err();
            assert!(why.contains("takes more than 1000000 steps"), "{source}: {why}");
            assert!(why.len() < 500, "{why}");
        }
    }

    #[test]
    fn long_values_cost_what_handling_them_costs() {
        let mut scope = scope();
        scope.params.insert("names".into(), (0..4_000).map(|n| json!(format!("n{n}"))).collect());
        scope.params.insert("text".into(), json!("x".repeat(32_000)));
        let value = |source: &str| {
            Expression::parse(source, "when").unwrap().evaluate(&scope).map_err(|no_value| no_value.message)
        };
        assert_eq!(value("params.names.exists(n, n == 'n3999')"), Ok(true));
        assert_eq!(value("'n3999' in params.names && params.names.size() == 4000"), Ok(true));
        assert_eq!(value("params.text + params.text != params.text"), Ok(true));
        for source in [
            "params.names.all(a, params.names.all(b, true))",
            "params.names.all(a, a in params.names)",
            "params.names.map(a, params.text + a).size() > 0",
            "params.names.map(a, params.names).size() > 0",
        ] {
            let why = value(source).unwrap_err();
            assert!(why.contains("steps"), "{source}: {why}");
        }
    }

    #[test]
    fn what_is_said_of_a_condition_is_short() {
        let source = format!("params.tags[0] + '{}' > 3", "x".repeat(3_000));
        let parsed = Expression::parse(&source, "when").unwrap();
        assert!(parsed.source().len() <= SHOWN);
        assert!(parsed.evaluate(&scope()).unwrap_err().message.len() < 3 * SHOWN);
    }
}
