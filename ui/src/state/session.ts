/** The key of this tab. It is in session storage alone: closing the tab forgets it, unless the browser opens the tab again. */
import { useEffect, useState } from "preact/hooks";
import type { Whoami } from "../api/types";

const NAME = "secateur-key";
const listeners = new Set<() => void>();
let reason: string | null = null;
let who: Whoami | null = null;

export const sessionKey = (): string | null => sessionStorage.getItem(NAME);

export function beginSession(key: string, whoami: Whoami): void {
  sessionStorage.setItem(NAME, key);
  who = whoami;
  reason = null;
  tell();
}

/** why: what the page of the key says; null after signing out. */
export function endSession(why: string | null): void {
  sessionStorage.removeItem(NAME);
  who = null;
  reason = why;
  tell();
}

/** A call with this key was answered 401; a key that came after it is not meant. */
export function refuseKey(key: string | null): void {
  if (key && key === sessionKey()) endSession("The key is not valid any more.");
}

export interface Session {
  key: string | null;
  reason: string | null;
  who: Whoami | null;
  may(scope: string): boolean;
}

export function session(): Session {
  const scopes = who?.key.scopes ?? [];
  return { key: sessionKey(), reason, who, may: (scope) => scopes.includes(scope) };
}

export function knowSession(whoami: Whoami): void {
  who = whoami;
  tell();
}

export function useSession(): Session {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = () => again((count) => count + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return session();
}

function tell(): void {
  for (const listener of [...listeners]) listener();
}
