/** What stands where there is nothing to show: yet, at all, or because of a problem. */
import type { ComponentChildren } from "preact";
import { Problem } from "../api/problem";
import { number } from "../format";

export function Loading({ what = "Loading" }: { what?: string }) {
  return (
    <p class="loading" role="status">
      <span class="spinner" aria-hidden="true" />
      {what}…
    </p>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <div class="quiet">{children}</div>}
    </div>
  );
}

export function ErrorNotice({ error, again }: { error: Error | null | undefined; again?: () => void }) {
  if (!error) return null;
  const problem = error instanceof Problem ? error : null;
  return (
    <div class="notice bad" role="alert">
      <p>
        <strong>{error.message}</strong>
      </p>
      {problem && problem.fields.length > 0 && (
        <ul>
          {problem.fields.map((field) => (
            <li>
              {(field.pointer ?? field.parameter) && <code>{field.pointer ?? field.parameter}</code>} {field.detail}
            </li>
          ))}
        </ul>
      )}
      <p class="quiet">
        {problem && <code>{problem.code}</code>}
        {problem?.requestId && <> · request {problem.requestId.slice(0, 12)}</>}
        {again && (
          <button type="button" class="link" onClick={again}>
            Try again
          </button>
        )}
      </p>
    </div>
  );
}

/** Says that a list is not whole. */
export function Newest({ found, what }: { found: { rows: readonly unknown[]; whole: boolean } | undefined; what: string }) {
  if (!found || found.whole) return null;
  return <Notice kind="warn">Only the newest {number(found.rows.length)} {what} are shown; the API lists all.</Notice>;
}

export function Notice({ kind, children }: { kind: "good" | "warn" | "info"; children: ComponentChildren }) {
  return (
    <div class={`notice ${kind}`} role={kind === "info" ? undefined : "status"}>
      {children}
    </div>
  );
}
