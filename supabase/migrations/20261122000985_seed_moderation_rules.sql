-- Purpose:   rules to start with; administrators change them like any other.
-- Consumers: judge_text, judge_behaviour.
-- Locks:     none on existing tables.
-- Undo:      delete from private.moderation_rules;
--
-- Conservative on purpose: what is certain enough to act on by itself. Words that only offend are marked, not refused.
set lock_timeout = '4s';

insert into private.moderation_rules (name, kind, action, label, explanation, terms, settings)
values
(
    'contact_details', 'contact', 'mask', 'contact_details',
    'Contact details are shown to the other person once contact is allowed in this conversation.', '{}', '{}'
),
(
    'spam_repetition', 'repetition', 'hold', 'spam',
    'The same message went to many conversations; somebody looks at it first.', '{}', '{"conversations": 10, "windowS": 3600}'
),
(
    'flood', 'flood', 'hold', 'spam',
    'Messages went to many conversations in a short time; somebody looks at this one first.', '{}',
    '{"conversations": 25, "windowS": 600}'
),
(
    'new_account_links', 'first_contact', 'hold', 'link',
    'A first message from a new account with a link is looked at first.', '{}', '{"accountAgeS": 86400, "onlyWithLink": true}'
),
(
    'off_platform_payment', 'term', 'warn', 'scam',
    'Pay only through this site; payments elsewhere are not protected.',
    array[
        'western union', 'moneygram', 'money gram', 'gift card code', 'gift card codes', 'giftcard codes', 'itunes card', 'itunes cards',
        'steam card', 'steam cards', 'pay outside', 'paying outside', 'payment outside', 'pay me outside', 'pay you outside',
        'pay off platform', 'pay off the platform', 'pay offsite', 'avoid the fees', 'avoid the fee', 'avoid fees', 'without the fees',
        'bypass the fees', 'skip the fees', 'friends and family payment', 'paypal friends and family', 'paypal f f', 'pay directly to me',
        'pay me directly', 'pay in bitcoin', 'pay in crypto', 'pay me in crypto', 'pay with crypto', 'wire the money', 'zelle me',
        'cashapp me', 'cash app me', 'venmo me'
    ],
    '{}'
),
(
    'abuse', 'term', 'warn', 'abuse', 'This may hurt somebody; please write respectfully.',
    array[
        'fuck you', 'fuck off', 'fuckyou', 'go fuck yourself',
        'motherfucker', 'motherfuckers', 'asshole', 'assholes', 'arsehole', 'cunt', 'cunts',
        'nigger', 'niggers', 'nigga', 'faggot', 'faggots', 'retard', 'retards', 'whore', 'slut', 'sluts', 'bitch', 'bitches',
        'son of a bitch', 'dickhead', 'wanker', 'piece of shit', 'kill yourself', 'kys', 'tranny', 'kike', 'wetback',
        'hurensohn', 'fotze', 'wichser', 'arschloch', 'fick dich', 'missgeburt',
        'hijo de puta', 'hija de puta', 'maricon', 'gilipollas', 'pendejo', 'chinga tu madre',
        'fils de pute', 'connard', 'connasse', 'encule', 'nique ta mere',
        'figlio di puttana', 'stronzo', 'vaffanculo', 'filho da puta', 'caralho', 'vai tomar no cu',
        'kurwa', 'skurwysyn', 'spierdalaj', 'orospu', 'orospu cocugu', 'siktir', 'kankerhoer', 'klootzak',
        'сука', 'блядь', 'пидор', 'пидорас', 'мудак', 'иди нахуй', 'пошел нахуй', 'ебать', 'уебок',
        'كس امك', 'ابن القحبة', 'ابن الشرموطة', 'شرموطة', 'मादरचोद', 'बहनचोद', 'भोसड़ीके',
        '傻逼', '操你妈', '草泥马', '死ね', 'くたばれ', '씨발', '개새끼', '병신', 'địt mẹ', 'đụ má', 'γαμιεσαι', 'μαλακα'
    ],
    '{}'
);
