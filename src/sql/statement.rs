//! What a statement says, in the user's own words and with the places of those words.

use arrow::datatypes::Field;
use sqlparser::ast;

use super::types::arrow_type;
use crate::error::{Result, Span};
use crate::format::FieldName;
use crate::options::GivenOption;

/// One statement of a script.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub kind: StatementKind,
    pub span: Span,
    /// As written, without the `;`.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StatementKind {
    CreateTable(Box<CreateTable>),
    CreateView(CreateView),
    /// A query that is answered once, as far as its tables end.
    Query(Box<ast::Query>),
    /// `SUBSCRIBE v`, `SUBSCRIBE SELECT …` and `SELECT … EMIT CHANGES`: a query whose changes are followed.
    Subscribe(Box<ast::Query>),
    Explain {
        analyze: bool,
        /// A query or a `CREATE VIEW`.
        statement: Box<StatementKind>,
    },
    Drop {
        what: DropTarget,
        names: Vec<Name>,
        if_exists: bool,
        cascade: bool,
    },
    Show(Show),
    Describe(Name),
    /// Parsed only to be refused by the name of its table: event streams are read, never written.
    Insert {
        table: Name,
    },
    Set {
        name: Name,
        value: String,
    },
}

/// What can be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropTarget {
    Table,
    View,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Show {
    Tables,
    Views,
    /// `SHOW CREATE TABLE t` and `SHOW CREATE VIEW v`.
    Create(DropTarget, Name),
    /// `SHOW STATUS` of everything, or of one view or table.
    Status(Option<Name>),
    /// `SHOW GAPS`, likewise.
    Gaps(Option<Name>),
}

/// A name and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Name {
    /// What the name means: folded to lower case unless quoted, as DataFusion does in queries.
    pub text: String,
    /// The letters as they were written, without quotes: the key of a field in a payload.
    pub written: String,
    /// It stands in quotes: upper and lower case count.
    pub quoted: bool,
    pub span: Span,
}

impl Name {
    pub(super) fn new(ident: &ast::Ident) -> Self {
        let FieldName { name: written, exact: quoted } = key(ident);
        Name { text: fold(ident), written, quoted, span: ident.span.into() }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What an identifier means: unquoted ones fold to lower case (`datafusion.sql_parser.enable_ident_normalization`).
pub(super) fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// The field of a payload that an identifier means.
pub(super) fn key(ident: &ast::Ident) -> FieldName {
    FieldName { name: ident.value.clone(), exact: ident.quote_style.is_some() }
}

/// `CREATE TABLE name (columns…) WITH (options…)`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    pub name: Name,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Empty where none are declared.
    pub columns: Vec<ColumnDef>,
    pub watermark: Option<WatermarkDef>,
    pub options: Vec<GivenOption>,
    /// The whole statement as written.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDef {
    pub name: Name,
    /// None only where a generated column leaves its type to its expression.
    pub data_type: Option<TypeDef>,
    pub not_null: bool,
    /// One of the columns that name a row, so that an event about a row replaces it.
    pub primary_key: bool,
    pub origin: Origin,
    pub span: Span,
}

impl ColumnDef {
    /// The column in Arrow, where its type is declared. The error points at the type.
    pub fn field(&self) -> Result<Option<Field>> {
        let Some(TypeDef { data_type, span }) = &self.data_type else { return Ok(None) };
        let field = arrow_type(data_type).map_err(|error| error.at(*span))?;
        Ok(Some(field.as_ref().clone().with_name(&self.name.text).with_nullable(!self.not_null)))
    }

    /// The field of the payload that the column takes, and those that the fields of structs inside its type take: each before those
    /// within it.
    pub fn keys(&self) -> (FieldName, Vec<FieldName>) {
        let mut inner = Vec::new();
        if let Some(TypeDef { data_type, .. }) = &self.data_type {
            super::types::keys(data_type, &mut inner);
        }
        (FieldName { name: self.name.written.clone(), exact: self.name.quoted }, inner)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct TypeDef {
    pub data_type: ast::DataType,
    pub span: Span,
}

/// Where the values of a column come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// A field of the event's data, of the column's name as written.
    Payload,
    /// `METADATA FROM 'key'`: the event around the data.
    Metadata { key: String, span: Span },
    /// `GENERATED ALWAYS AS (expr)` or `AS expr`: the other columns.
    Generated(Box<ast::Expr>),
}

/// `WATERMARK FOR column [AS expr]`.
#[derive(Debug, Clone, PartialEq)]
pub struct WatermarkDef {
    pub column: Name,
    pub expr: Option<ast::Expr>,
    pub span: Span,
}

/// `CREATE VIEW name [WITH (options…)] AS query`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateView {
    pub name: Name,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Accepted and without effect: every view over a stream is kept up to date.
    pub materialized: bool,
    pub options: Vec<GivenOption>,
    pub query: Box<ast::Query>,
    /// The query ends with `EMIT CHANGES`: `WITH (emit = 'changes')` in other words.
    pub emit_changes: bool,
    /// The whole statement as written.
    pub text: String,
}

/// As it stands in a statement: `TABLE` or `VIEW`.
impl std::fmt::Display for DropTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DropTarget::Table => "TABLE",
            DropTarget::View => "VIEW",
        })
    }
}
