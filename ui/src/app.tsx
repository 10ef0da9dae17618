import { lazy, Suspense } from "preact/compat";
import { useEffect, useState } from "preact/hooks";
import { Route, Router, Switch, useLocation } from "wouter-preact";
import { api, take } from "./api/client";
import { wait } from "./api/stream";
import { Login } from "./pages/Login";
import { JobsPage } from "./pages/Jobs";
import { NotFound } from "./pages/NotFound";
import { Shell } from "./parts/Shell";
import { ErrorNotice, Loading } from "./parts/Notices";
import { knowSession, useSession } from "./state/session";

const JobPage = lazy(() => import("./pages/job/Job").then((m) => ({ default: m.JobPage })));
const NewPage = lazy(() => import("./pages/new/New").then((m) => ({ default: m.NewPage })));
const ModelsPage = lazy(() => import("./pages/Models").then((m) => ({ default: m.ModelsPage })));
const DatasetsPage = lazy(() => import("./pages/Datasets").then((m) => ({ default: m.DatasetsPage })));
const ComparePage = lazy(() => import("./pages/Compare").then((m) => ({ default: m.ComparePage })));
const ProjectsPage = lazy(() => import("./pages/Projects").then((m) => ({ default: m.ProjectsPage })));
const WebhooksPage = lazy(() => import("./pages/webhooks/Webhooks").then((m) => ({ default: m.WebhooksPage })));
const WebhookPage = lazy(() => import("./pages/webhooks/Webhook").then((m) => ({ default: m.WebhookPage })));
const AuditPage = lazy(() => import("./pages/Audit").then((m) => ({ default: m.AuditPage })));

/** The page of the address, or the question for a key. */
export function App() {
  const { key, who } = useSession();
  const error = useWhoami(key !== null && who === null);
  if (!key) return <Login />;
  return (
    <Router base="/ui">
      <Shell>
        <ErrorNotice error={error} />
        <Suspense fallback={<Loading />}>
          <Pages />
        </Suspense>
      </Shell>
    </Router>
  );
}

/** Asks whose the key is until that is known; until then no action is offered. */
function useWhoami(unknown: boolean): Error | undefined {
  const [error, setError] = useState<Error>();
  useEffect(() => {
    if (!unknown) return;
    const over = new AbortController();
    void (async () => {
      for (let pause = 1000; !over.signal.aborted; pause = Math.min(2 * pause, 60_000)) {
        try {
          return knowSession(await take(api.GET("/v1/whoami", { signal: over.signal })));
        } catch (problem) {
          if (!over.signal.aborted) setError(problem as Error);
        }
        await wait(pause, over.signal);
      }
    })();
    return () => {
      over.abort();
      setError(undefined);
    };
  }, [unknown]);
  return error;
}

function Pages() {
  const [location] = useLocation();
  useEffect(() => {
    scrollTo(0, 0);
  }, [location.split("/").slice(0, 3).join("/")]);
  return (
    <Switch>
      <Route path="/" component={JobsPage} />
      <Route path="/jobs" component={JobsPage} />
      <Route path="/jobs/:id/:tab?">{({ id, tab }) => <JobPage key={id} id={id} tab={tab ?? "overview"} />}</Route>
      <Route path="/new" component={NewPage} />
      <Route path="/models" component={ModelsPage} />
      <Route path="/datasets" component={DatasetsPage} />
      <Route path="/compare" component={ComparePage} />
      <Route path="/webhooks" component={WebhooksPage} />
      <Route path="/webhooks/:id">{({ id }) => <WebhookPage key={id} id={id} />}</Route>
      <Route path="/projects" component={ProjectsPage} />
      <Route path="/audit" component={AuditPage} />
      <Route component={NotFound} />
    </Switch>
  );
}
