import { useEffect } from "preact/hooks";
import { Link } from "wouter-preact";
import { api, take } from "../../api/client";
import { hasEnded, StateBadge } from "../../parts/State";
import { ErrorNotice, Loading } from "../../parts/Notices";
import { Head } from "../../parts/Shell";
import { useLoad } from "../../state/loading";
import { useNames } from "../../state/names";
import { useRows } from "../../state/rows";
import { useTitle } from "../../state/title";
import type { Event } from "../../api/types";
import { short } from "../../format";
import { Actions } from "./Actions";
import { Overview } from "./Overview";
import { Events, Log } from "./Events";
import { History } from "./History";
import { Results } from "./Results";
import { Family } from "./Family";
import { Files } from "./Files";

const TABS = {
  overview: "Overview",
  results: "Results",
  blocks: "Blocks",
  lineage: "Lineage",
  events: "Events",
  log: "Log",
  files: "Files",
} as const;

/** One job, live. */
export function JobPage({ id, tab }: { id: string; tab: string }) {
  const names = useNames();
  const job = useLoad(() => take(api.GET("/v1/jobs/{id}", { params: { path: { id } } })), [id], 3, hasEnded);
  const events = useRows<Event>(`/v1/jobs/${encodeURIComponent(id)}/events`);
  useTitle(job.data ? `${job.data.method} ${short(id)}` : "Job");
  useEffect(() => {
    if (events.all) job.reload();
  }, [events.all]);

  if (!job.data) return job.error ? <ErrorNotice error={job.error} again={job.reload} /> : <Loading />;
  const found = job.data;
  return (
    <>
      <Head
        title={
          <span class="row">
            {found.method} on {names.model(found.model)} <StateBadge state={found.state} />
          </span>
        }
        about={<code>{id}</code>}
      >
        <Actions job={found} replace={job.replace} />
      </Head>
      <nav class="tabs" aria-label="Parts of the job">
        {Object.entries(TABS).map(([key, title]) => (
          <Link href={`/jobs/${id}/${key}`} aria-current={key === tab ? "page" : undefined}>
            {title}
          </Link>
        ))}
      </nav>
      <ErrorNotice error={job.error} again={job.reload} />
      {tab === "overview" && <Overview job={found} names={names} events={events.rows} />}
      {tab === "results" && <Results job={found} />}
      {tab === "blocks" && <History job={found} />}
      {tab === "lineage" && <Family job={found} />}
      {tab === "events" && <Events events={events} />}
      {tab === "log" && <Log id={id} />}
      {tab === "files" && <Files job={found} ended={hasEnded(found)} />}
    </>
  );
}
