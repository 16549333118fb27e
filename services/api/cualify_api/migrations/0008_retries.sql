-- What a call does when it is not answered, as its request wished; NULL: it rings once.
ALTER TABLE calls ADD COLUMN retry jsonb;

-- Where an agent's calls turn to when its own provider is known not to have started them: [{provider, provider_agent_id}].
ALTER TABLE agents ADD COLUMN fallback_providers jsonb NOT NULL DEFAULT '[]';
