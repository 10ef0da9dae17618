import { useEffect, useRef } from "preact/hooks";
import type { Event, LogLine } from "../../api/types";
import { bytes, clock, count, figure, moment, number, percent, words } from "../../format";
import { Empty, ErrorNotice, Notice } from "../../parts/Notices";
import { useRows, type Rows } from "../../state/rows";

const CONNECTION = { connecting: "Connecting…", open: "Live", ended: "Complete" } as const;

const shown = ({ rows, all }: Rows<Event> | Rows<LogLine>, one: string) =>
  all > rows.length ? `the newest ${number(rows.length)} of ${count(all, one)}` : count(all, one);

export function Events({ events }: { events: Rows<Event> }) {
  return (
    <section class="card stack" aria-label="Events">
      <p class="quiet" role="status">{CONNECTION[events.state]} · {shown(events, "event")}</p>
      <ErrorNotice error={events.error} />
      {events.rows.length ? <EventList events={[...events.rows].reverse()} /> : <Empty title="No events yet" />}
    </section>
  );
}

export function EventList({ events }: { events: readonly Event[] }) {
  return (
    <ol class="events">
      {events.map((event) => (
        <li key={event.seq}>
          <span class="quiet">{event.seq}</span>
          <time class="quiet" dateTime={event.at} title={moment(event.at)}>{clock(event.at)}</time>
          <span>{sentence(event)}</span>
        </li>
      ))}
    </ol>
  );
}

/** An event in words. */
function sentence(event: Event): string {
  switch (event.type) {
    case "created": return "Created";
    case "transition": return `${words(event.data.from)} → ${words(event.data.to)}${event.data.message ? `: ${event.data.message}` : ""}`;
    case "cancel_requested": return "Asked to cancel";
    case "changed": return `Changed: ${event.data.fields.map(words).join(", ")}`;
    case "retried": return `Retried as ${event.data.job}`;
    case "taken_over": return `${event.data.blocks} blocks taken over from ${event.data.job}`;
    case "phase": return `Phase: ${words(event.data.phase)}`;
    case "attempt_started": return `Attempt ${event.data.attempt} on ${event.data.worker}`;
    case "attempt_ended": return `Attempt ${event.data.attempt} ended: ${words(event.data.outcome)}${event.data.message ? `: ${event.data.message}` : ""}`;
    case "stage_started": return `Stage ${event.data.stage + 1} (${event.data.domain}) began`;
    case "stage_finished": return `Stage ${event.data.stage + 1} (${event.data.domain}) done, ${percent(event.data.sparsity)} sparse`;
    case "evaluated": return `Perplexity on ${event.data.domain}: ${figure(event.data.perplexity)} (row ${event.data.row})`;
    case "checkpoint_dropped": return "The checkpoint was dropped";
    case "restarted": return `Begun again: ${event.data.reason}`;
    case "published": return `Published: ${event.data.files} files, ${bytes(event.data.bytes)}`;
    case "note": return event.data.message;
    default: return words((event as { type: string }).type);
  }
}

/** The engine's log, live. */
export function Log({ id }: { id: string }) {
  const lines = useRows<LogLine>(`/v1/jobs/${encodeURIComponent(id)}/logs`);
  const box = useRef<HTMLPreElement>(null);
  const follows = useRef(true);
  useEffect(() => {
    if (box.current && follows.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines.all]);
  return (
    <section class="card stack" aria-label="Log">
      <p class="quiet" role="status">{CONNECTION[lines.state]} · {shown(lines, "line")}</p>
      {lines.all > lines.rows.length && <Notice kind="info">All lines: <code>secateur logs {id}</code></Notice>}
      <ErrorNotice error={lines.error} />
      {lines.rows.length === 0 && <Empty title="The log is empty" />}
      {lines.rows.length > 0 && (
        <pre
          class="log"
          ref={box}
          tabIndex={0}
          aria-label="Lines of the log"
          onScroll={({ currentTarget: at }) => (follows.current = at.scrollHeight - at.scrollTop - at.clientHeight < 40)}
        >
          {lines.rows.map((line) => `${clock(line.at)} ${line.level.padEnd(7)} ${line.message}`).join("\n")}
        </pre>
      )}
    </section>
  );
}
