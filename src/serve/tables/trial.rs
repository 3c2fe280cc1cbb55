//! Tries a posted table without making it: what its feed sends, and what that would be in SQL.

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;

use crate::serve::App;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
}
