import { useState } from "preact/hooks";
import { api, take } from "../api/client";
import type { Problem } from "../api/problem";
import { Input } from "../parts/Fields";
import { Notice } from "../parts/Notices";
import { Mark, ThemeSwitch } from "../parts/Shell";
import { beginSession, useSession } from "../state/session";
import { useTitle } from "../state/title";

/** The question for a key. */
export function Login() {
  useTitle("Sign in");
  const { reason } = useSession();
  const [key, setKey] = useState("");
  const [fault, setFault] = useState<string>();
  const [asking, setAsking] = useState(false);

  const enter = async (event: SubmitEvent) => {
    event.preventDefault();
    const given = key.trim();
    if (!given) return setFault("Enter a key.");
    setAsking(true);
    try {
      beginSession(given, await take(api.GET("/v1/whoami", { headers: { Authorization: `Bearer ${given}` } })));
    } catch (error) {
      const { status, message } = error as Problem;
      setFault(status === 401 ? "No such key, or it has expired or been revoked." : message);
      setAsking(false);
    }
  };

  return (
    <main class="login">
      <form onSubmit={enter} noValidate>
        <h1>
          <Mark /> Secateur
        </h1>
        <p class="quiet">Prunes large language models.</p>
        {reason && <Notice kind="warn">{reason}</Notice>}
        <Input
          label="API key"
          type="password"
          name="key"
          autoComplete="off"
          spellcheck={false}
          autoFocus
          value={key}
          onValue={(value) => {
            setKey(value);
            setFault(undefined);
          }}
          fault={fault}
          hint={
            <>
              It begins with <code>sctr_</code>. It stays in this tab until you sign out or close it; a browser that opens the tab again has it again.
            </>
          }
        />
        <button type="submit" class="primary" disabled={asking}>
          Sign in
        </button>
      </form>
      <ThemeSwitch />
    </main>
  );
}
