//! Dashboards as Grafana reads them: their variables, and every query of their panels and annotations.
//!
//! ```text
//! *.json ─read→ Dashboard { variables, queries } ─substitute→ what Grafana would ask Prometheus
//! ```
//!
//! Promise: a row's collapsed panels, hidden targets and annotations count too; a variable that nobody
//! defines is an error, not an empty text. Not here: asking.
//! Source: Grafana, "Dashboard JSON model" and "Global variables".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What is wrong with a dashboard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DashboardError {
    /// A file or folder cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not JSON.
    #[error("{} is not JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// A query uses a variable that neither the dashboard nor Grafana has.
    #[error("${name} in {text:?} is no variable")]
    UnknownVariable {
        /// The name.
        name: String,
        /// Where it stands.
        text: String,
    },
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    /// The file's name, without its end.
    pub name: String,
    /// Its variables, in their order: later ones may use earlier ones.
    pub variables: Vec<Variable>,
    /// What its panels and annotations ask.
    pub queries: Vec<Query>,
}

/// One variable of a dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Where its values come from.
    pub source: Source,
    /// Whether several values may be chosen: then it stands for any of them.
    pub is_multi: bool,
    /// What `All` stands for, if that is not simply all values.
    pub all_value: Option<String>,
}

/// Where a variable's values come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The values of `label` among the series of `selector`.
    LabelValues {
        /// The label.
        label: String,
        /// The series; all, if none.
        selector: Option<String>,
    },
    /// Written in the dashboard.
    Fixed(Vec<String>),
}

/// One query of a panel or an annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The panel's title, or the annotation's name behind `annotation`.
    pub panel: String,
    /// The query's letter.
    pub reference: String,
    /// What is asked, with variables.
    pub expression: String,
    /// Whether it is asked for now only.
    pub is_instant: bool,
}

/// Every dashboard of a folder, by name.
///
/// # Errors
/// One cannot be read.
pub fn read_all(folder: &Path) -> Result<Vec<Dashboard>, DashboardError> {
    files(folder, "json")?.iter().map(|path| read(path)).collect()
}

/// The files of a folder whose names end so, by name.
///
/// # Errors
/// The folder cannot be read.
pub fn files(folder: &Path, end: &str) -> Result<Vec<PathBuf>, DashboardError> {
    let io = |source| DashboardError::Io { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(io)?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == end) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Dashboard, DashboardError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| DashboardError::Io { path: path.to_owned(), source })?;
    let json = serde_json::from_str(&text)
        .map_err(|source| DashboardError::Json { path: path.to_owned(), source })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(parse(name, &json))
}

fn parse(name: String, json: &Value) -> Dashboard {
    let mut queries = Vec::new();
    for panel in list(&json["panels"]) {
        collect(panel, &mut queries);
    }
    let annotations = list(&json["annotations"]["list"]).iter().filter_map(annotation);
    queries.extend(annotations);
    let variables = list(&json["templating"]["list"]).iter().filter_map(variable).collect();
    Dashboard { name, variables, queries }
}

fn collect(panel: &Value, queries: &mut Vec<Query>) {
    for target in list(&panel["targets"]) {
        let expression = text(&target["expr"]);
        if !expression.is_empty() {
            queries.push(Query {
                panel: text(&panel["title"]).to_owned(),
                reference: text(&target["refId"]).to_owned(),
                expression: expression.to_owned(),
                is_instant: target["instant"] == true && target["range"] != true,
            });
        }
    }
    // A collapsed row has its panels inside.
    list(&panel["panels"]).iter().for_each(|inner| collect(inner, queries));
}

fn annotation(annotation: &Value) -> Option<Query> {
    let places = [&annotation["expr"], &annotation["target"]["expr"]];
    let expression = places.into_iter().map(text).find(|expression| !expression.is_empty())?;
    Some(Query {
        panel: format!("annotation {}", text(&annotation["name"])),
        reference: "-".to_owned(),
        expression: expression.to_owned(),
        is_instant: false,
    })
}

fn variable(json: &Value) -> Option<Variable> {
    let query = match &json["query"] {
        Value::Object(query) => query.get("query").map_or("", text),
        query => text(query),
    };
    let source = match text(&json["type"]) {
        "query" => label_values(query)?,
        "custom" | "interval" => {
            Source::Fixed(query.split(',').map(|value| value.trim().to_owned()).collect())
        }
        "constant" | "textbox" => Source::Fixed(vec![query.to_owned()]),
        // A source of data is not part of a query's text.
        _ => return None,
    };
    Some(Variable {
        name: text(&json["name"]).to_owned(),
        source,
        is_multi: json["multi"] == true || json["includeAll"] == true,
        all_value: json["allValue"].as_str().filter(|all| !all.is_empty()).map(str::to_owned),
    })
}

/// `label_values(label)` or `label_values(selector, label)`.
fn label_values(query: &str) -> Option<Source> {
    let inner = query.trim().strip_prefix("label_values(")?.strip_suffix(')')?;
    Some(match inner.rsplit_once(',') {
        Some((selector, label)) => Source::LabelValues {
            label: label.trim().to_owned(),
            selector: Some(selector.trim().to_owned()),
        },
        None => Source::LabelValues { label: inner.trim().to_owned(), selector: None },
    })
}

fn list(json: &Value) -> &[Value] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn text(json: &Value) -> &str {
    json.as_str().unwrap_or_default()
}

/// What a variable stands for when everything is chosen: one value, or a regular expression of several.
pub fn chosen(variable: &Variable, values: &[String]) -> String {
    match (variable.is_multi, &variable.all_value) {
        (false, _) => values.first().cloned().unwrap_or_default(),
        (true, Some(all)) => all.clone(),
        (true, None) => format!("({})", values.join("|")),
    }
}

/// Puts values in place of `$name`, `${name}`, `${name:format}` and `[[name]]`. `$1` is not a variable.
///
/// # Errors
/// A variable has no value.
pub fn substitute(
    expression: &str,
    values: &BTreeMap<String, String>,
) -> Result<String, DashboardError> {
    let (mut result, mut rest) = (String::new(), expression);
    while let Some(at) = rest.find(['$', '[']) {
        let (before, from) = rest.split_at(at);
        result.push_str(before);
        let Some((name, length)) = name_at(from) else {
            result.push_str(&from[..1]);
            rest = &from[1..];
            continue;
        };
        let unknown = || DashboardError::UnknownVariable {
            name: name.to_owned(),
            text: expression.to_owned(),
        };
        result.push_str(values.get(name).ok_or_else(unknown)?);
        rest = &from[length..];
    }
    Ok(result + rest)
}

/// The variable that `text` begins with, and how long it is written.
fn name_at(text: &str) -> Option<(&str, usize)> {
    if let Some(inner) = text.strip_prefix("${") {
        let end = inner.find('}')?;
        let name = inner[..end].split(':').next()?;
        return Some((name, end + 3));
    }
    if let Some(inner) = text.strip_prefix("[[") {
        let end = inner.find("]]")?;
        return Some((inner[..end].split(':').next()?, end + 4));
    }
    let inner = text.strip_prefix('$')?;
    let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
    let is_name = inner.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    is_name.then(|| (&inner[..end], end + 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_query_is_found_in_rows_and_annotations_too() {
        let json = json!({
            "panels": [
                { "title": "A", "targets": [{ "expr": "a", "refId": "A", "instant": true }] },
                { "type": "row", "panels": [{ "title": "B", "targets": [
                    { "expr": "b", "refId": "A", "hide": true }, { "expr": "", "refId": "B" }] }] },
                { "type": "text", "title": "no query" },
            ],
            "annotations": { "list": [
                { "builtIn": 1, "name": "Grafana's own" },
                { "name": "faults", "expr": "c" },
                { "name": "new form", "target": { "expr": "d" } },
            ] },
        });
        let found = parse("x".into(), &json).queries;
        let found: Vec<_> =
            found.iter().map(|q| (&q.panel[..], &q.expression[..], q.is_instant)).collect();
        assert_eq!(
            found,
            [
                ("A", "a", true),
                ("B", "b", false),
                ("annotation faults", "c", false),
                ("annotation new form", "d", false),
            ]
        );
    }

    #[test]
    fn variables_come_from_labels_or_lists() {
        let json = json!({ "templating": { "list": [
            { "type": "datasource", "name": "source", "query": "prometheus" },
            { "type": "query", "name": "cluster", "query": { "query": "label_values(up, cluster)" } },
            { "type": "query", "name": "node", "multi": true, "allValue": ".*",
              "query": "label_values(up{cluster=\"$cluster\",a=~\"b,c\"}, node)" },
            { "type": "custom", "name": "stage", "includeAll": true, "query": "a, b" },
        ] } });
        let variables = parse("x".into(), &json).variables;
        let labels = |selector: &str, label: &str| Source::LabelValues {
            label: label.into(),
            selector: Some(selector.into()),
        };
        assert_eq!(variables.len(), 3);
        assert_eq!(variables[0].source, labels("up", "cluster"));
        assert_eq!(variables[1].source, labels("up{cluster=\"$cluster\",a=~\"b,c\"}", "node"));
        let values = ["a".to_owned(), "b".to_owned()];
        assert_eq!(variables[2].source, Source::Fixed(values.to_vec()));
        let chosen: Vec<_> = variables.iter().map(|v| chosen(v, &values)).collect();
        assert_eq!(chosen, ["a", ".*", "(a|b)"]);
        assert_eq!(
            label_values("label_values(node)"),
            Some(Source::LabelValues { label: "node".into(), selector: None })
        );
    }

    #[test]
    fn variables_are_replaced_in_every_form() {
        let values = [("node", "(1|2)"), ("__rate_interval", "10s")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let replaced =
            substitute("rate(x{n=~\"$node\"}[$__rate_interval]) ${node:regex} [[node]]", &values);
        assert_eq!(replaced.unwrap(), "rate(x{n=~\"(1|2)\"}[10s]) (1|2) (1|2)");
        let kept = "label_replace(x, \"a\", \"$1\", \"b\", \"(.*)\")[5m:]";
        assert_eq!(substitute(kept, &values).unwrap(), kept);
        // Negative control: a name that nobody defines is no empty text.
        assert!(substitute("x{n=\"$nodes\"}", &values).is_err());
    }
}
