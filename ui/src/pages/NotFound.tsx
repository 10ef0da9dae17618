import { Link } from "wouter-preact";
import { Empty } from "../parts/Notices";
import { Head } from "../parts/Shell";
import { useTitle } from "../state/title";

export function NotFound() {
  useTitle("Not found");
  return (
    <>
      <Head title="Not found" />
      <Empty title="There is no such page">
        <Link href="/jobs">All jobs</Link>
      </Empty>
    </>
  );
}
